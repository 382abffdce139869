"""cluster.yaml and deploy/: what Ray, AWS and KubeRay say of them, as far as they can be asked without a network."""

import contextlib
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
MACHINES = {  # vCPUs, GPUs, GiB of memory; from AWS's instance pages
    "m6i.xlarge": (4, 0, 16),
    "c6i.4xlarge": (16, 0, 32),
    "g5.2xlarge": (8, 1, 32),
    "g5.4xlarge": (16, 1, 64),
}
RAY = "2.60.0"
FILES = [ROOT / "cluster.yaml", *sorted((ROOT / "deploy").iterdir())]


def cluster():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.fixture
def token(tmp_path, monkeypatch):
    """A home folder with an auth token, as `ray get-auth-token --generate` leaves it."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("x")
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def prepared(token):
    from ray.autoscaler._private.util import prepare_config

    return prepare_config(cluster())


def nodes():
    for name, node in cluster()["available_node_types"].items():
        yield pytest.param(node, id=name)


def test_ray_accepts_cluster_yaml(prepared):
    from ray.autoscaler._private.util import validate_config

    validate_config(prepared)
    types = prepared["available_node_types"]
    assert sum(node["max_workers"] for node in types.values()) <= prepared["max_workers"]
    assert types[prepared["head_node_type"]]["resources"] == {"CPU": 0}, "the head does no work"


@pytest.mark.parametrize("node", list(nodes()))
def test_ec2_knows_every_field_of_a_node_and_takes_its_value(node):
    """Ray does not look into node_config: a misspelt MarketType would be noticed when the machines are started."""
    import botocore.session
    from botocore.validate import ParamValidator

    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    # What Ray adds to them.
    request = {**node["node_config"], "MinCount": 1, "MaxCount": 1, "SubnetId": "subnet-1", "KeyName": "key"}
    assert not ParamValidator().validate(request, shape).has_errors()
    assert set(request) <= set(shape.members)
    config = node["node_config"]
    assert config["InstanceType"] in shape.members["InstanceType"].enum
    market = config.get("InstanceMarketOptions", {"MarketType": "spot"})
    assert market["MarketType"] in shape.members["InstanceMarketOptions"].members["MarketType"].enum
    assert config["MetadataOptions"]["HttpTokens"] == "required"
    assert "Arn" in config["IamInstanceProfile"] or "Name" in config["IamInstanceProfile"], "roles, not keys"
    # Without groups of its own Ray makes one that is open to the world at port 22.
    assert config["SecurityGroupIds"]


@pytest.mark.parametrize("node", list(nodes()))
def test_a_node_promises_what_its_machine_has(node):
    cpus, gpus, _ = MACHINES[node["node_config"]["InstanceType"]]
    assert node["resources"].get("GPU", 0) == gpus
    assert node["resources"]["CPU"] in (0, cpus)
    assert ("InstanceMarketOptions" in node["node_config"]) == (node["labels"].get("market") == "spot")


@pytest.fixture
def starts(prepared):
    """What Ray's autoscaler would start on an empty cluster for single requests, and for those that belong together."""
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.autoscaler_pb2 import GangResourceRequest

    for node in prepared["available_node_types"].values():  # as `ray up` does, asking EC2
        _, gpus, memory = MACHINES[node["node_config"]["InstanceType"]]
        node["resources"] |= {"memory": int(memory * 2**30 * 0.7)}
        node["resources"] |= {"accelerator_type:A10G": 1} if gpus else {}
    config = AutoscalingConfig(prepared)

    def ask(single=(), together=()):
        request = SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(one) for one in single]),
            gang_resource_requests=[GangResourceRequest(requests=[ResourceRequestUtil.make(one) for one in together])]
            * bool(together),
        )
        return {launch.instance_type: launch.count for launch in ResourceDemandScheduler().schedule(request).to_launch}

    return ask


@pytest.mark.slow
def test_jobs_get_machines_of_their_pools(starts):
    actor, worker, task = {"CPU": 15, "GPU": 1}, {"CPU": 1, "GPU": 1}, {"CPU": 1}
    assert starts([actor] * 16 + [task] * 2) == {"extract": 16}
    assert starts([actor] * 40) == {"extract": 16}, "extraction never takes training machines"
    assert starts(together=[worker] * 4) == {"train": 4}
    assert starts([task] * 20) == {"cpu": 2}
    # docs/cluster.md warns of it: eight CPUs are as many as a training machine has.
    assert starts([{"CPU": 8, "GPU": 1}]) == {"train": 1}


def test_pinned_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert any(f"=={RAY}" in one for one in project["optional-dependencies"]["ray"])
    torch = re.search(r"TORCH \?= (\S+)", (ROOT / "Makefile").read_text())[1]
    for path in FILES:
        text = path.read_text()
        assert set(re.findall(r"torch==\S+", text)) <= {torch}
        assert set(re.findall(r"rayproject/ray:([\d.]+)-py311", text)) <= {RAY}
        assert set(re.findall(r"/posec3d:(\S+)", text)) <= {project["version"]}
    job = list(yaml.safe_load_all((ROOT / "deploy/kuberay-rayjob.yaml").read_text()))[1]
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == RAY


def test_files_that_setup_commands_name_are_mounted():
    config = cluster()
    assert config["file_mounts"]["/home/ray/posec3d"] == "."
    text = "".join(config["setup_commands"])
    for name in re.findall(r"[\w-]+\.txt", text):
        assert (ROOT / name).exists()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.search(r"\.\[([\w,]+)\]", text)[1].split(",")) <= set(extras)
    assert "mmpose.txt" in text, "else the head's driver would have every actor install it"


def test_commands_are_shell_and_ray_start_knows_its_flags():
    from ray.scripts.scripts import start

    config = cluster()
    commands = [one for key, value in config.items() if key.endswith("_commands") for one in value]
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)
    known = {name for option in start.params for name in option.opts}
    (head, worker) = (one.split("ray start")[1] for one in commands if "ray start" in one)
    for flags in (head, worker):
        assert {flag.split("=")[0] for flag in shlex.split(flags)} <= known


def test_every_ray_start_has_the_token_and_shows_it_to_nobody():
    config = cluster()
    for kind in ("head", "worker"):
        (start,) = (one for one in config[f"{kind}_start_ray_commands"] if "ray start" in one)
        assert start.startswith("export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(cat ~/.ray/auth_token);")
        assert "echo" not in start and "--dashboard-host=0.0.0.0" not in start
    for path in FILES:  # keys, tokens, and numbers of accounts
        assert not re.search(r"AKIA\w{16}|\b(?=[0-9a-f]*[1-9a-f])[0-9a-f]{32,}\b|\b(?!0{12})\d{12}\b", path.read_text())


@pytest.mark.slow
def test_ray_starts_all_node_types_in_a_mock_of_aws(token, monkeypatch):
    """deploy/aws.yaml, then what `ray up` asks of EC2: one open port, for one address, and roles that may do little."""
    import boto3
    import requests
    from moto.server import ThreadedMotoServer
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.aws.utils import client_cache, resource_cache
    from ray.autoscaler._private.util import prepare_config, validate_config

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        resource_cache.cache_clear()
        client_cache.cache_clear()
        ec2, iam, stacks = (boto3.client(name) for name in ("ec2", "iam", "cloudformation"))
        values = {"Bucket": "bucket", "Address": "203.0.113.7/32", "Vpc": ec2.describe_vpcs()["Vpcs"][0]["VpcId"]}
        stacks.create_stack(
            StackName="posec3d",
            TemplateBody=(ROOT / "deploy/aws.yaml").read_text(),
            Capabilities=["CAPABILITY_NAMED_IAM"],
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()],
        )
        (stack,) = stacks.describe_stacks(StackName="posec3d")["Stacks"]
        assert stack["StackStatus"] == "CREATE_COMPLETE"
        (group,) = (output["OutputValue"] for output in stack["Outputs"])

        image = ec2.describe_images()["Images"][0]["ImageId"]
        text = (ROOT / "cluster.yaml").read_text()
        text = text.replace("ami-00000000000000000", image).replace("sg-00000000000000000", group)
        config = AWSNodeProvider.fillout_available_node_types_resources(prepare_config(yaml.safe_load(text)))
        validate_config(config)
        for name, node in config["available_node_types"].items():
            if name != config["head_node_type"]:  # EC2's own count of what the machine has
                kind = ec2.describe_instance_types(InstanceTypes=[node["node_config"]["InstanceType"]])
                (kind,) = kind["InstanceTypes"]
                assert node["resources"]["CPU"] == kind["VCpuInfo"]["DefaultVCpus"]
                assert node["resources"].get("GPU", 0) == sum(
                    g["Count"] for g in kind.get("GpuInfo", {}).get("Gpus", [])
                )
        config = bootstrap_aws(config)
        provider = AWSNodeProvider(config["provider"], config["cluster_name"])
        for name, node in config["available_node_types"].items():
            tags = {"ray-node-kind": "head" if name == "head" else "worker", "ray-user-node-type": name}
            (machine,) = provider.create_node(node["node_config"], tags, 1).values()
            machine.load()
            assert [one["GroupId"] for one in machine.security_groups] == [group]
            assert machine.iam_instance_profile["Arn"].endswith("posec3d-head" if name == "head" else "posec3d-worker")
            assert (machine.instance_lifecycle == "spot") == (name in ("extract", "cpu"))
        groups = ec2.describe_security_groups()["SecurityGroups"]
        assert len(groups) == 2, "Ray made none beside the VPC's own and the stack's"
        (ours,) = (one for one in groups if one["GroupId"] == group)
        opened = [r["CidrIp"] for rule in ours["IpPermissions"] for r in rule["IpRanges"] + rule["Ipv6Ranges"]]
        assert opened == ["203.0.113.7/32"]
        for policy in iam.list_policies(Scope="Local")["Policies"]:
            version = iam.get_policy_version(PolicyArn=policy["Arn"], VersionId="v1")["PolicyVersion"]["Document"]
            for statement in version["Statement"]:
                assert not any("*" in action for action in statement["Action"])

        # What the roles may do, conditions apart, which moto does not know.
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="bucket")
        s3.put_object(Bucket="bucket", Key="videos/x.mp4", Body=b"")
        given = [
            boto3.client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="node")["Credentials"]
            for role in sorted(iam.list_roles()["Roles"], key=lambda role: role["RoleName"])
            if "Role" in role["RoleName"]
        ]
        start = {**config["available_node_types"]["extract"]["node_config"], "MinCount": 1, "MaxCount": 1}
        start["SubnetId"] = start.pop("SubnetIds")[0]
        assert requests.post(f"http://{host}:{port}/moto-api/reset-auth", data=b"0", timeout=9).ok
        for credentials, is_head in zip(given, (True, False), strict=True):
            node = boto3.Session(*(credentials[key] for key in ("AccessKeyId", "SecretAccessKey", "SessionToken")))
            s3, ec2 = node.client("s3"), node.client("ec2")
            s3.list_objects_v2(Bucket="bucket")
            s3.get_object(Bucket="bucket", Key="videos/x.mp4")
            for key in ("tables/mine/x.parquet", "runs/mine/x"):
                s3.put_object(Bucket="bucket", Key=key, Body=b"")
                s3.delete_object(Bucket="bucket", Key=key)
            for refused in (s3.put_object, s3.delete_object):
                with pytest.raises(s3.exceptions.ClientError, match="AccessDenied"):
                    refused(Bucket="bucket", Key="videos/x.mp4")
            with contextlib.nullcontext() if is_head else pytest.raises(ec2.exceptions.ClientError):
                ec2.run_instances(**start)
            with contextlib.nullcontext() if is_head else pytest.raises(ec2.exceptions.ClientError):
                ec2.describe_instances()
            with pytest.raises(ec2.exceptions.ClientError):
                ec2.authorize_security_group_ingress(GroupId=group, IpProtocol="tcp", CidrIp="0.0.0.0/0")
    finally:  # moto's state is the process's
        assert requests.post(f"http://{host}:{port}/moto-api/reset-auth", data=b"inf", timeout=9).ok
        assert requests.post(f"http://{host}:{port}/moto-api/reset", timeout=9).ok
        server.stop()
        resource_cache.cache_clear()
        client_cache.cache_clear()


# Fields of KubeRay's RayJob and what it holds, v1.5.1: from its API reference.
RAYJOB = set(
    "activeDeadlineSeconds backoffLimit rayClusterSpec submitterPodTemplate metadata clusterSelector submitterConfig "
    "managedBy deletionStrategy entrypoint runtimeEnvYAML jobId submissionMode entrypointResources entrypointNumCpus "
    "entrypointNumGpus ttlSecondsAfterFinished shutdownAfterJobFinishes suspend".split()
)
RAYCLUSTER = set(
    "suspend managedBy autoscalerOptions headServiceAnnotations enableInTreeAutoscaling gcsFaultToleranceOptions "
    "headGroupSpec rayVersion workerGroupSpecs authOptions".split()
)
HEAD = {"template", "headService", "enableIngress", "rayStartParams", "serviceType", "resources", "labels"}
WORKERS = set(
    "suspend groupName replicas minReplicas maxReplicas idleTimeoutSeconds rayStartParams template scaleStrategy "
    "numOfHosts resources labels".split()
)
POD = {"serviceAccountName", "securityContext", "nodeSelector", "tolerations", "containers", "volumes"}
CONTAINER = {"name", "image", "ports", "resources", "volumeMounts"}


def test_the_kuberay_job_has_the_shape_of_the_operators_api():
    account, job = yaml.safe_load_all((ROOT / "deploy/kuberay-rayjob.yaml").read_text())
    assert (account["apiVersion"], account["kind"]) == ("v1", "ServiceAccount")
    assert "eks.amazonaws.com/role-arn" in account["metadata"]["annotations"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec, of_cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert spec.keys() <= RAYJOB and of_cluster.keys() <= RAYCLUSTER
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["submissionMode"] in {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"}
    assert of_cluster["authOptions"] == {"mode": "token"}
    assert of_cluster["headGroupSpec"].keys() <= HEAD
    assert of_cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = of_cluster["workerGroupSpecs"]
    assert [group["groupName"] for group in groups] == ["extract", "train"]
    for group in [of_cluster["headGroupSpec"], *groups]:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        assert pod.keys() <= POD
        assert pod["serviceAccountName"] == account["metadata"]["name"]
        (container,) = pod["containers"]
        assert container.keys() <= CONTAINER
        assert container["name"] in {"ray-head", "ray-worker"}
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert container["volumeMounts"] == [{"name": "dshm", "mountPath": "/dev/shm"}]  # noqa: S108
        assert pod["volumes"][0]["emptyDir"]["medium"] == "Memory"
    for group in groups:
        assert group.keys() <= WORKERS
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        (container,) = group["template"]["spec"]["containers"]
        cpus, gpus, memory = MACHINES[group["template"]["spec"]["nodeSelector"]["node.kubernetes.io/instance-type"]]
        limits = container["resources"]["limits"]
        assert limits["nvidia.com/gpu"] == gpus
        assert int(limits["cpu"]) < cpus and int(limits["memory"].removesuffix("Gi")) < memory
    spot = groups[0]["template"]["spec"]["nodeSelector"]["eks.amazonaws.com/capacityType"]
    assert spot == "SPOT"


def test_the_kuberay_jobs_command_is_one_of_ours():
    from jobs.train import parse

    _, job = yaml.safe_load_all((ROOT / "deploy/kuberay-rayjob.yaml").read_text())
    words = job["spec"]["entrypoint"].split()
    assert words[:3] == ["python", "-m", "jobs.train"]
    assert parse(words[3:]).use_gpu
