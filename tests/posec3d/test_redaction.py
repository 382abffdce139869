"""What must not be told is left out, and nothing else."""

import pytest

from posec3d.redaction import unsigned


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("https://b.s3.amazonaws.com/a.mp4?X-Amz-Date=1&X-Amz-Security-Token=s&X-Amz-Signature=s", None),
        ("https://b.s3.amazonaws.com/a.mp4?AWSAccessKeyId=AK&Signature=s%3D&Expires=1", None),
        ("https://d1.cloudfront.net/a.mp4?Policy=p&Signature=s&Key-Pair-Id=K", None),
        ("https://storage.googleapis.com/b/a.mp4?X-Goog-Credential=c&X-Goog-Signature=s", None),
        ("https://x.blob.core.windows.net/b/a.mp4?sv=2024&st=1&se=2&sr=b&sp=r&sig=s%2F", None),
        ("https://h/a.mp4?versionId=7&X-Amz-Signature=s", "https://h/a.mp4?versionId=7"),
        ("https://h/watch?v=1&st=10&Expires=no", "https://h/watch?v=1&st=10&Expires=no"),
        ("https://h/a.mp4?sig=s: no such file", "https://h/a.mp4: no such file"),
        ("403, url='https://h/a.mp4?X-Amz-Signature=s', why?", "403, url='https://h/a.mp4', why?"),
        ("/videos/a?sig=1.mp4", "/videos/a?sig=1.mp4"),
    ],
)
def test_signatures_of_urls_are_left_out_and_nothing_else(text, wanted):
    assert unsigned(text) == (wanted or text.partition("?")[0])
