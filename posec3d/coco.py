"""COCO keypoint JSON -> which frame of which video each image is, and the annotations of people in them."""

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any


def places(content: Any) -> dict[Any, tuple[str, int]]:
    """The video and the frame number of each image, by the image's id.

    Raises:
        ValueError: not COCO's object, an id twice, or an image of no known video and frame.
        KeyError, TypeError, AttributeError: a field is missing, or of another type.
    """
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        kind = f"a {type(content).__name__}"
        got = f"an object with {', '.join(sorted(content)[:8])}" if isinstance(content, dict) else kind
        raise ValueError(f"{got}; wanted COCO's object with images and annotations")
    videos = {video["id"]: video["name"] for video in content.get("videos") or ()}
    found = {image["id"]: place(image, videos) for image in content["images"]}
    if len(found) < len(content["images"]):
        raise ValueError(f"{len(content['images'])} images with {len(found)} ids, wanted one each")
    return found


def people(
    content: Mapping[str, Any], places: Mapping[Any, tuple[str, int]]
) -> Iterator[tuple[tuple[str, int], Mapping[str, Any]]]:
    """Annotations of people, crowds left out, each with its video and frame.

    Raises:
        ValueError: no category is called person, or an annotation is of an image that `places` does not have.
        KeyError, TypeError, AttributeError: a field is missing, or of another type.
    """
    categories = content.get("categories")
    persons = {category["id"] for category in categories or () if category["name"] == "person"}
    if categories and not persons:
        names = ", ".join(str(category["name"]) for category in categories[:5])
        raise ValueError(f"categories are {names}; wanted one called person")
    for annotation in content["annotations"]:
        if annotation.get("iscrowd") or (persons and annotation["category_id"] not in persons):
            continue
        image = annotation["image_id"]
        if image not in places:
            raise ValueError(f"an annotation is of image {image!r}, which is not among the images")
        yield places[image], annotation


def place(image: dict[str, Any], videos: dict[Any, str]) -> tuple[str, int]:
    """The video and the frame number of an image."""
    frame = image.get("frame_id", image.get("frame_index"))
    if image.get("video_id") in videos and frame is not None:
        return videos[image["video_id"]], frame
    folder, _, name = image["file_name"].replace("\\", "/").rpartition("/")
    number = posixpath.splitext(name)[0]
    if not folder or not number.isdecimal():
        raise ValueError(
            f"the image {image['file_name']!r} is of no known video and frame; wanted file names like "
            "<video>/<frame number>.jpg, or images with video_id and frame_id, and a list videos"
        )
    return folder, int(number)
