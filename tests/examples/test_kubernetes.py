"""The manifests of examples/kubernetes: what they say is possible, and rrmaster agrees."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

pytest.importorskip("kubernetes_validate")

from examples.kubernetes import check
from examples.kubernetes.check import Manifest, complaints, manifests
from rrmaster.rules.lifecycle import TERM_S

FOLDERS = {name: manifests(check.HERE / name) for name in ("base", "busy")}


@pytest.mark.parametrize("folder", FOLDERS)
def test_there_is_nothing_to_complain_of(folder: str) -> None:
    assert list(complaints(FOLDERS[folder])) == []


def pod(found: dict[str, Manifest]) -> Manifest:
    spec: Manifest = found["Deployment"]["spec"]["template"]["spec"]
    return spec


def container(found: dict[str, Manifest]) -> Manifest:
    only: Manifest = pod(found)["containers"][0]
    return only


def config(found: dict[str, Manifest], old: str, new: str) -> None:
    data = found["ConfigMap"]["data"]
    assert old in data["rrmaster.toml"]
    data["rrmaster.toml"] = data["rrmaster.toml"].replace(old, new)


MISTAKES: dict[str, tuple[Callable[[dict[str, Manifest]], object], str]] = {
    "a pull policy": (lambda m: container(m).update(imagePullPolicy="Sometimes"), "imagePullPolicy Sometimes is none"),
    "a port": (lambda m: container(m)["ports"][0].update(containerPort=70000), "port 70000 is none"),
    "no containers": (lambda m: pod(m).update(containers=[]), "the pod has no container"),
    "no version": (lambda m: container(m).update(image="shop"), "the image shop has no version"),
    "the Service's selector": (lambda m: m["Service"]["spec"].update(selector={"a": "b"}), "Service matches no pod"),
    "the budget's selector": (
        lambda m: m["PodDisruptionBudget"]["spec"]["selector"].update(matchLabels={"a": "b"}),
        "PodDisruptionBudget matches no pod",
    ),
    "the Service's port": (lambda m: m["Service"]["spec"]["ports"][0].update(targetPort="web"), "no container has"),
    "the admin port": (lambda m: m["Service"]["spec"]["ports"][0].update(targetPort="admin"), "shows the admin port"),
    "what is scaled": (
        lambda m: m["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"].update(name="web"),
        "scales another object",
    ),
    "replicas": (lambda m: m["Deployment"]["spec"].update(replicas=3), "takes the number of replicas back"),
    "a volume": (lambda m: container(m)["volumeMounts"][0].update(name="no"), "there is no volume no"),
    "a file that never changes": (
        lambda m: container(m)["volumeMounts"][0].update(subPath="rrmaster.toml"),
        "would never change",
    ),
    "the ConfigMap": (lambda m: m["ConfigMap"]["metadata"].update(name="other"), "is of another ConfigMap"),
    "the address": (lambda m: config(m, "0.0.0.0:8000", "0.0.0.0:8001"), "and the port http is 8000"),
    "the admin address": (lambda m: config(m, "0.0.0.0:9000", "0.0.0.0:9001"), "and the port admin is 9000"),
    "workers": (lambda m: config(m, "application", "workers = 4\napplication"), "wins over WEB_CONCURRENCY"),
    "a probe's path": (
        lambda m: container(m)["readinessProbe"]["httpGet"].update(path="/healthz"),
        "readinessProbe asks /healthz",
    ),
    "a probe's port": (lambda m: container(m)["startupProbe"]["httpGet"].update(port="http"), "startupProbe asks"),
    "a liveness probe that kills": (
        lambda m: container(m)["livenessProbe"]["httpGet"].update(path="/readyz"),
        "kill a fleet in a crash loop",
    ),
    "the grace period": (
        lambda m: pod(m).update(terminationGracePeriodSeconds=30),
        "killed after 30 s, and may need 40",
    ),
    "a hook and a delay": (
        lambda m: container(m).update(lifecycle={"preStop": {"sleep": {"seconds": 10}}}),
        "killed after 45 s, and may need 50 s",
    ),
    "no delay": (lambda m: config(m, '"10s"', '"0s"'), "the drain begins before the readiness probe has failed"),
}


@pytest.mark.parametrize(("change", "complaint"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_found(change: Callable[[dict[str, Manifest]], object], complaint: str) -> None:
    found = copy.deepcopy(FOLDERS["base"])
    change(found)
    with pytest.raises(AssertionError, match=complaint):
        assert list(complaints(found, versions=())) == []


def test_a_wrong_type_and_an_unknown_name_are_found() -> None:
    found = copy.deepcopy(FOLDERS["base"])
    container(found).update(command="rrmaster")
    found["Service"]["spec"]["gracePeriod"] = 3
    service, deployment = sorted(complaints(found, versions=check.VERSIONS[:1]), reverse=True)
    assert "Kubernetes 1.33: Additional properties" in service
    assert "Kubernetes 1.33: 'rrmaster' is not of type" in deployment


def test_every_file_of_the_base_is_in_its_kustomization() -> None:
    files = {file.name for file in (check.HERE / "base").iterdir()} - {"kustomization.yaml"}
    assert files == {f"{kind.lower()}.yaml" for kind in FOLDERS["base"]}


def test_the_time_that_a_master_takes_for_workers_whose_time_is_over_is_known() -> None:
    assert check.LAST_S >= TERM_S
