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


def budget(found: dict[str, Manifest], **only: object) -> None:
    spec = found["PodDisruptionBudget"]["spec"]
    found["PodDisruptionBudget"]["spec"] = {"selector": spec["selector"], **only}


MISTAKES: dict[str, tuple[Callable[[dict[str, Manifest]], object], str]] = {
    "a pull policy": (lambda m: container(m).update(imagePullPolicy="Sometimes"), "imagePullPolicy Sometimes is none"),
    "a port": (lambda m: container(m)["ports"][0].update(containerPort=70000), "port 70000 is none"),
    "a Service's port": (lambda m: m["Service"]["spec"]["ports"][0].update(port=70000), "port 70000 is none"),
    "a port's name": (lambda m: container(m)["ports"][0].update(name="admin"), "a name is there twice"),
    "a registry's port": (lambda m: container(m).update(image="registry:5000/shop"), "has no version"),
    "root": (lambda m: pod(m)["securityContext"].update(runAsUser=0), "the pod may run as root"),
    "perhaps root": (lambda m: pod(m)["securityContext"].pop("runAsNonRoot"), "the pod may run as root"),
    "no seccomp": (lambda m: pod(m)["securityContext"].pop("seccompProfile"), "runs without seccomp"),
    "a root": (lambda m: container(m)["securityContext"].pop("readOnlyRootFilesystem"), "the root can be written"),
    "capabilities": (lambda m: container(m)["securityContext"].pop("capabilities"), "keeps capabilities"),
    "no new privileges": (lambda m: container(m)["securityContext"].pop("allowPrivilegeEscalation"), "may gain some"),
    "no /tmp": (lambda m: container(m)["volumeMounts"].pop(1), "cannot write to /tmp"),
    "a token": (lambda m: pod(m).pop("automountServiceAccountToken"), "a token for the API"),
    "links": (lambda m: pod(m).pop("enableServiceLinks"), "would set RRMASTER_PORT"),
    "no limit": (lambda m: container(m)["resources"]["limits"].pop("memory"), "memory has no request or no limit"),
    "a limit": (lambda m: container(m)["resources"]["limits"].update(cpu="500m"), "more cpu is requested"),
    "memory": (lambda m: container(m)["resources"]["requests"].update(memory="1Gi"), "more memory is requested"),
    "another container": (
        lambda m: container(m)["env"][0]["valueFrom"]["resourceFieldRef"].update(containerName="web"),
        "is not this container's limit",
    ),
    "a budget of none": (lambda m: m["PodDisruptionBudget"]["spec"].update(maxUnavailable=0), "can never be drained"),
    "a budget of all": (lambda m: budget(m, minAvailable="100%"), "can never be drained"),
    "a budget of half": (lambda m: budget(m, minAvailable="51%"), "can never be drained"),
    "a budget of two": (lambda m: budget(m, minAvailable=2), "can never be drained"),
    "one pod": (lambda m: m["HorizontalPodAutoscaler"]["spec"].update(minReplicas=1), "without a gap"),
    "a rollout with a gap": (
        lambda m: m["Deployment"]["spec"]["strategy"]["rollingUpdate"].update(maxUnavailable=1),
        "fewer pods than are needed",
    ),
    "a rollout that stands": (
        lambda m: m["Deployment"]["spec"]["strategy"]["rollingUpdate"].update(maxSurge=0),
        "can never begin",
    ),
    "no containers": (lambda m: pod(m).update(containers=[]), "the pod has no container"),
    "no version": (lambda m: container(m).update(image="shop"), "the image shop has no version"),
    "the Service's selector": (lambda m: m["Service"]["spec"].update(selector={"a": "b"}), "Service matches no pod"),
    "the budget's selector": (
        lambda m: m["PodDisruptionBudget"]["spec"]["selector"].update(matchLabels={"a": "b"}),
        "PodDisruptionBudget matches no pod",
    ),
    "the policy's selector": (
        lambda m: m["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].update(a="b"),
        "the selector of NetworkPolicy matches no pod",
    ),
    "the policy's port": (
        lambda m: m["NetworkPolicy"]["spec"]["ingress"][0].update(ports=[{"port": "web"}]),
        "the NetworkPolicy's port web",
    ),
    "an open admin port": (
        lambda m: m["NetworkPolicy"]["spec"]["ingress"][1].pop("from"),
        "opens the admin port to all",
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
    "a probe's number": (
        lambda m: container(m)["livenessProbe"]["httpGet"].update(port=9001),
        "livenessProbe asks /livez of the port 9001",
    ),
    "Prometheus": (
        lambda m: m["Deployment"]["spec"]["template"]["metadata"]["annotations"].update({"prometheus.io/port": "8000"}),
        "Prometheus asks the port 8000",
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


def test_the_manifests_serve_what_the_image_of_the_other_example_has() -> None:
    said = container(FOLDERS["base"])
    services = check.yaml.safe_load((check.HERE.parent / "container" / "compose.yaml").read_text())["services"]
    assert said["image"] in {service["image"] for service in services.values() if "build" in service}
    module, _, name = check.settings_in(FOLDERS["base"]).application.partition(":")
    for folder in ("container", "kubernetes"):  # the image's, and the one in its place when a pod is acted out
        assert f"async def {name}(" in (check.HERE.parent / folder / f"{module}.py").read_text()


@pytest.mark.parametrize("spec", [{"minAvailable": 1}, {"minAvailable": "50%"}, {"maxUnavailable": "1%"}])
def test_a_budget_that_lets_a_pod_go_is_no_mistake(spec: Manifest) -> None:
    found = copy.deepcopy(FOLDERS["base"])
    budget(found, **spec)
    assert list(complaints(found, versions=())) == []
