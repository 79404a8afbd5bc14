"""The overlays of deploy/k8s as kustomize builds them."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from ipaddress import ip_network
from typing import Any

import kubernetes_validate
import pytest
import yaml

from api.settings import ApiSettings
from tasks.metrics import METRICS
from tests.support.paths import ROOT

K8S = ROOT / "deploy" / "k8s"
OVERLAYS = ("cpu", "gpu", "gpus")
COMPONENT = "app.kubernetes.io/component"
#: What docs/kubernetes.md says to put into the secret, and what a gated model needs beside.
SECRETS = {"redis_url", "s3_access_key", "s3_secret_key", "metrics_token"}
#: Kinds of other projects, whose schemas are not Kubernetes' own: the fields that are used.
OTHERS = {
    "ScaledObject": {
        *("scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval"),
        *("cooldownPeriod", "fallback", "advanced", "triggers"),
    },
    "ServiceMonitor": {"selector", "endpoints"},
    "PrometheusRule": {"groups"},
}

Object = dict[str, Any]

BUILD = [["kustomize", "build"], ["kubectl", "kustomize"]]
COMMAND = next((each for each in BUILD if shutil.which(each[0])), None)
pytestmark = pytest.mark.skipif(COMMAND is None, reason="neither kustomize nor kubectl here")


@cache
def _built(overlay: str) -> tuple[Object, ...]:
    assert COMMAND is not None
    call = [*COMMAND, str(K8S / "overlays" / overlay)]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert not done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def _all(overlay: str, *kinds: str) -> dict[str, Object]:
    return {each["metadata"]["name"]: each for each in _built(overlay) if each["kind"] in kinds}


def _workloads(overlay: str) -> dict[str, Object]:
    return _all(overlay, "Deployment", "StatefulSet", "Job")


def _settings(overlay: str) -> dict[str, str]:
    (config,) = _all(overlay, "ConfigMap").values()
    return dict(config["data"])


def _container(workload: Object) -> Object:
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    return dict(container)


def _chosen(selector: Object, overlay: str) -> set[str]:
    """The workloads whose pods a selector chooses."""
    wanted = {key: [value] for key, value in selector.get("matchLabels", {}).items()}
    for rule in selector.get("matchExpressions", ()):
        assert rule["operator"] == "In"
        wanted[rule["key"]] = rule["values"]
    found = _workloads(overlay).items()
    labels = {name: each["spec"]["template"]["metadata"]["labels"] for name, each in found}
    return {
        name
        for name, own in labels.items()
        if all(own.get(key) in values for key, values in wanted.items())
    }


def test_every_object_is_valid() -> None:
    objects = [each for overlay in OVERLAYS for each in _built(overlay)]
    for each in {json.dumps(one, sort_keys=True): one for one in objects}.values():
        if each["kind"] in OTHERS:
            assert each["spec"].keys() <= OTHERS[each["kind"]]
        else:
            kubernetes_validate.validate(each, "1.33", strict=True)
        assert each["kind"] == "Namespace" or each["metadata"]["namespace"] == "rmbg"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_restricted_and_have_all_that_they_mount(overlay: str) -> None:
    for each in _workloads(overlay).values():
        pod = each["spec"]["template"]["spec"]
        profile = {"type": "RuntimeDefault"}
        user = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": profile}
        assert user.items() <= pod["securityContext"].items()
        assert pod["automountServiceAccountToken"] is False
        # Else Kubernetes sets RMBG_API_PORT and the like.
        assert pod["enableServiceLinks"] is False
        container = _container(each)
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert re.search(r":\d", container["image"]), "an image without a version"
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        if each["kind"] != "Job":
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
            assert pod["terminationGracePeriodSeconds"] >= 15 + float(
                _settings(overlay)["RMBG_SHUTDOWN_SECONDS"]
            )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_and_secrets_are_those_of_the_service(overlay: str) -> None:
    known = {f"RMBG_{name.upper()}" for name in ApiSettings.model_fields}
    given = _settings(overlay)
    for each in _workloads(overlay).values():
        own = {one["name"]: one.get("value", "") for one in _container(each)["env"]}
        for name, value in {**given, **own}.items():
            if name.startswith("RMBG_"):
                assert name.removesuffix("_FILE") in known, name
            if name.endswith("_FILE"):
                assert value.removeprefix("/run/secrets/rmbg/") in SECRETS
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    assert set(re.findall(r"--from-file=(\w+)", page)) == SECRETS | {"hf_token"}
    plain = {
        name.removeprefix("RMBG_").lower(): value
        for name, value in given.items()
        if not name.endswith("_FILE")
    }
    assert ApiSettings.load(**plain).auth == "on"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_worker_has_the_name_that_its_probes_ask_for(overlay: str) -> None:
    model = _settings(overlay)["RMBG_MODEL"]
    for name, kind, queues in (
        ("rmbg-io", "io", "webhooks"),
        ("rmbg-worker", "worker", "gpu.pod-0.0,model." + model),
    ):
        container = _container(_workloads(overlay)[name])
        own = {"RMBG_HOST": "pod-0", "RMBG_MODEL": model}
        text = "\n".join(container["args"])
        for variable, value in own.items():
            text = text.replace(f"$({variable})", value)
        args = text.splitlines()
        worker = args[args.index("-n") + 1]
        assert args[args.index("-Q") + 1] == queues
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            # Kubernetes expands no variables in a probe: a shell does.
            *shell, script = container[probe]["exec"]["command"]
            assert shell == ["sh", "-c"]
            shown = script.replace("exec rmbg", "echo")
            said = subprocess.check_output([*shell, shown], env=own, text=True)
            assert said.split() == ["health", kind, worker]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_services_and_budgets_choose_pods(overlay: str) -> None:
    workloads = _workloads(overlay)
    for name, each in _all(overlay, "PodDisruptionBudget").items():
        assert _chosen(each["spec"]["selector"], overlay) == {name}
    for name, each in _all(overlay, "Service").items():
        assert _chosen({"matchLabels": each["spec"]["selector"]}, overlay) == {name}
        names = [port["name"] for port in _container(workloads[name])["ports"]]
        assert [port["targetPort"] for port in each["spec"]["ports"]] == names


def test_overlays_differ_as_the_page_says() -> None:
    workers = [_container(_workloads(overlay)["rmbg-worker"]) for overlay in OVERLAYS]
    gpus = [each["resources"]["limits"].get("nvidia.com/gpu") for each in workers]
    assert gpus == [None, "1", "1"]
    assert [_settings(overlay)["RMBG_DEVICE"] for overlay in OVERLAYS] == ["cpu", "cuda", "cuda"]
    assert _settings("gpus")["RMBG_ROUTING"] == "shared"
    modes = [each["spec"]["accessModes"] for each in _all("gpus", "PersistentVolumeClaim").values()]
    assert modes == [["ReadWriteMany"]]


def _ways(overlay: str, direction: str) -> Iterator[tuple[set[str], Object]]:
    for each in _all(overlay, "NetworkPolicy").values():
        for rule in each["spec"].get(direction, ()):
            yield _chosen(each["spec"]["podSelector"], overlay), rule


def test_callers_reach_the_api_alone_and_only_pictures_webhooks_and_weights_lead_out() -> None:
    everybody = _workloads("cpu").keys()
    closed = _all("cpu", "NetworkPolicy")["rmbg-nothing"]["spec"]
    assert _chosen(closed["podSelector"], "cpu") == everybody
    assert sorted(closed["policyTypes"]) == ["Egress", "Ingress"]
    assert not {"ingress", "egress"} & closed.keys()
    for pods, rule in _ways("cpu", "ingress"):
        assert "from" in rule or pods == {"rmbg-api"}
    for pods, rule in _ways("cpu", "egress"):
        ports = {port["port"] for port in rule["ports"]}
        if ports & {80, 443}:
            assert pods == {"rmbg-api", "rmbg-io", "rmbg-models"}
            assert all(block["ipBlock"]["except"] for block in rule["to"])
            assert "169.254.0.0/16" in rule["to"][0]["ipBlock"]["except"]
        else:
            assert ports in ({53}, {6379, 9000})
            blocks = [to["ipBlock"]["cidr"] for to in rule["to"] if "ipBlock" in to]
            assert all(ip_network(each).is_private or each == "100.64.0.0/10" for each in blocks)


def test_keda_scales_the_workers_by_a_metric_that_there_is() -> None:
    (scaled,) = _all("gpus", "ScaledObject").values()
    target = scaled["spec"]["scaleTargetRef"]
    assert _all("gpus", target["kind"]).keys() == {target["name"]}
    (trigger,) = scaled["spec"]["triggers"]
    known = {each.name for each in METRICS}
    assert set(re.findall(r"rmbg_\w+", trigger["metadata"]["query"])) <= known
    assert isinstance(trigger["metadata"]["threshold"], str)


def test_prometheus_finds_every_port_and_the_rules_find_their_labels() -> None:
    (monitor,) = _all("gpus", "ServiceMonitor").values()
    labels = monitor["spec"]["selector"]["matchLabels"]
    services = _all("gpus", "Service").values()
    for each in services:
        assert labels.items() <= each["metadata"]["labels"].items()
        assert each["metadata"]["labels"][COMPONENT] in {"api", "io", "worker"}
    endpoints = {each["port"]: each for each in monitor["spec"]["endpoints"]}
    assert endpoints.keys() == {port["name"] for each in services for port in each["spec"]["ports"]}
    assert endpoints["http"]["authorization"]["credentials"]["key"] in SECRETS
    for each in endpoints.values():
        assert {rule["targetLabel"] for rule in each["relabelings"]} == {"job", "service"}
    (rules,) = _all("gpus", "PrometheusRule").values()
    own = yaml.safe_load((ROOT / "deploy/prometheus/rules/rmbg.yml").read_text())
    # Kustomize folds long lines in its own way.
    found, expected = (
        json.dumps(each["groups"], sort_keys=True).replace("\\n", " ").split()
        for each in (rules["spec"], own)
    )
    assert found == expected
