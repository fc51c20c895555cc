"""Is what the manifests say possible, and does rrmaster agree?  `python check.py [FOLDER]`

The schemas, which `kubernetes-validate` brings, know names and types.  They let pass an image that is pulled
"Sometimes", the port 70000, a pod without containers, a selector that matches nothing, and a budget with which no node
can ever be drained.  So this looks at values, and at what the files say of each other and of rrmaster.  The status is 1
if there is something to complain of.
"""

import math
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

from rrmaster.admin import app as admin_pages
from rrmaster.config.settings import Settings
from rrmaster.config.sources import from_table, read

HERE = Path(__file__).resolve().parent
VERSIONS = ("1.33", "1.35", "1.37")
"""Of Kubernetes."""

LAST_S = 5
"""Seconds between the TERM and the KILL with which a master ends workers whose time is over."""

Manifest = dict[str, Any]


def manifests(folder: Path) -> dict[str, Manifest]:
    """The objects of a folder by their kind, as Kustomize makes them of its files and patches.

    Where an object is a list without a key, as an autoscaler's `metrics` is, a patch takes its place.
    """
    recipe = yaml.safe_load((folder / "kustomization.yaml").read_text())
    found: dict[str, Manifest] = {}
    for name in recipe["resources"]:
        if (folder / name).is_dir():
            found |= manifests(folder / name)
        else:
            manifest = yaml.safe_load((folder / name).read_text())
            found[manifest["kind"]] = manifest
    for patch in recipe.get("patches", []):
        change = yaml.safe_load((folder / patch["path"]).read_text())
        found[change["kind"]]["spec"] |= change["spec"]
    return found


def complaints(found: dict[str, Manifest], versions: Sequence[str] = VERSIONS) -> Iterator[str]:
    """What is wrong, one sentence each."""
    deployment = found["Deployment"]
    yield from _schemas(found, versions)
    containers = deployment["spec"]["template"]["spec"].get("containers")
    if not containers:
        yield "the pod has no container"
        return
    yield from _values(found, containers)
    yield from _hardened(deployment["spec"]["template"]["spec"], containers)
    yield from _resources(containers)
    yield from _numbers(found)
    yield from _selectors(found, deployment["spec"]["template"]["metadata"]["labels"])
    yield from _references(found, containers)
    settings = settings_in(found)
    yield from _agreements(found, containers[0], settings)
    yield from _times(deployment["spec"], containers[0], settings)


def settings_in(found: dict[str, Manifest]) -> Settings:
    table = tomllib.loads(found["ConfigMap"]["data"]["rrmaster.toml"])
    return read([from_table(table, "rrmaster.toml")])[0]


def _schemas(found: dict[str, Manifest], versions: Sequence[str]) -> Iterator[str]:
    for version in versions:
        for kind, manifest in found.items():
            try:
                kubernetes_validate.validate(manifest, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                yield f"{kind}, Kubernetes {version}: {error.message}"


def _values(found: dict[str, Manifest], containers: list[Manifest]) -> Iterator[str]:
    for port in found["Service"]["spec"]["ports"]:
        if not 1 <= port["port"] <= 65535:
            yield f"port {port['port']} is none"
    for names in ([c["name"] for c in containers], [p["name"] for c in containers for p in c.get("ports", [])]):
        if len(set(names)) < len(names):
            yield f"a name is there twice: {', '.join(names)}"
    for container in containers:
        policy = container.get("imagePullPolicy", "Always")
        if policy not in ("Always", "IfNotPresent", "Never"):
            yield f"imagePullPolicy {policy} is none of Always, IfNotPresent and Never"
        for port in container.get("ports", []):
            if not 1 <= port["containerPort"] <= 65535:
                yield f"port {port['containerPort']} is none"
        if container["image"].endswith(":latest") or ":" not in container["image"].rpartition("/")[2]:
            yield f"the image {container['image']} has no version"


def _hardened(pod: Manifest, containers: list[Manifest]) -> Iterator[str]:
    """What a pod gives up, and the one place where rrmaster writes."""
    outer = pod.get("securityContext", {})
    for container in containers:
        context = outer | container.get("securityContext", {})
        if not context.get("runAsNonRoot") or context.get("runAsUser") == 0:
            yield "the pod may run as root"
        if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            yield "the pod runs without seccomp"
        if not context.get("readOnlyRootFilesystem"):
            yield "the root can be written"
        dropped = context.get("capabilities", {}).get("drop", [])
        if context.get("allowPrivilegeEscalation", True) or "ALL" not in dropped:
            yield "the container keeps capabilities, or may gain some"
        if "/tmp" not in [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]:
            yield "rrmaster cannot write to /tmp, where its control socket is"
    if pod.get("automountServiceAccountToken", True):
        yield "the pod gets a token for the API, which it does not need"
    if pod.get("enableServiceLinks", True):
        yield "variables are set for each Service, and one called rrmaster would set RRMASTER_PORT"


def _resources(containers: list[Manifest]) -> Iterator[str]:
    for container in containers:
        requests, limits = (container.get("resources", {}).get(name, {}) for name in ("requests", "limits"))
        for what in ("cpu", "memory"):
            if what not in requests or what not in limits:
                yield f"{what} has no request or no limit"
            elif _quantity(requests[what]) > _quantity(limits[what]):
                yield f"more {what} is requested than the limit allows"
        (source,) = (env["valueFrom"] for env in container["env"] if env["name"] == "WEB_CONCURRENCY")
        source = source["resourceFieldRef"]
        if (source.get("containerName", container["name"]), source["resource"]) != (container["name"], "limits.cpu"):
            yield "WEB_CONCURRENCY is not this container's limit of processors"


def _quantity(text: object) -> float:
    number, suffix = re.fullmatch(r"([\d.]+)(m|[KMG]i?)?", str(text)).groups()  # type: ignore[union-attr]
    exponent = {None: 0, "K": 1, "M": 2, "G": 3}[suffix[0] if suffix not in (None, "m") else None]
    return float(number) * (0.001 if suffix == "m" else (1024 if str(suffix).endswith("i") else 1000) ** exponent)


def _numbers(found: dict[str, Manifest]) -> Iterator[str]:
    """How many pods there are, may be away, and may be more."""
    scaler, budget = found["HorizontalPodAutoscaler"]["spec"], found["PodDisruptionBudget"]["spec"]
    least = scaler.get("minReplicas", 1)
    if not 2 <= least <= scaler["maxReplicas"]:
        yield f"from {least} to {scaler['maxReplicas']} pods: one pod cannot be moved without a gap"
    away = least - _share(budget["minAvailable"], least) if "minAvailable" in budget else least
    if min(away, _share(budget.get("maxUnavailable", least), least)) < 1:
        yield "the budget lets no pod be moved, so a node with one can never be drained"
    strategy = found["Deployment"]["spec"].get("strategy", {})
    rolling = {"maxSurge": "25%", "maxUnavailable": "25%"} | strategy.get("rollingUpdate", {})
    if strategy.get("type") == "Recreate" or rolling["maxUnavailable"] not in (0, "0%"):
        yield "a rollout has fewer pods than are needed"
    elif rolling["maxSurge"] in (0, "0%"):
        yield "a rollout can never begin: no pod may be away, and none may be more"


def _share(value: object, of: int) -> int:
    """A number, or a share of it, rounded up as Kubernetes does for budgets."""
    return math.ceil(of * int(value[:-1]) / 100) if isinstance(value, str) else int(str(value))


def _selectors(found: dict[str, Manifest], labels: Manifest) -> Iterator[str]:
    pod = found["Deployment"]["spec"]["template"]["spec"]
    wanted = {
        "Deployment": found["Deployment"]["spec"]["selector"]["matchLabels"],
        "Service": found["Service"]["spec"]["selector"],
        "NetworkPolicy": found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        "PodDisruptionBudget": found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    }
    for spread in pod.get("topologySpreadConstraints", []):
        wanted["the spread"] = spread["labelSelector"]["matchLabels"]
    for owner, selector in wanted.items():
        if not selector or not selector.items() <= labels.items():
            yield f"the selector of {owner} matches no pod"


def _references(found: dict[str, Manifest], containers: list[Manifest]) -> Iterator[str]:
    ports = {port["name"] for container in containers for port in container.get("ports", [])}
    for port in found["Service"]["spec"]["ports"]:
        if port["targetPort"] not in ports:
            yield f"no container has the Service's port {port['targetPort']}"
        if port["targetPort"] == "admin":
            yield "the Service shows the admin port"
    target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    if (target["kind"], target["name"]) != ("Deployment", found["Deployment"]["metadata"]["name"]):
        yield "the autoscaler scales another object"
    if "replicas" in found["Deployment"]["spec"]:
        yield "each `kubectl apply` takes the number of replicas back from the autoscaler"
    for rule in found["NetworkPolicy"]["spec"]["ingress"]:
        for port in (port["port"] for port in rule["ports"]):
            if port not in ports:
                yield f"no container has the NetworkPolicy's port {port}"
            if port == "admin" and not rule.get("from"):
                yield "the NetworkPolicy opens the admin port to all"
    yield from _mounts(found, containers)


def _mounts(found: dict[str, Manifest], containers: list[Manifest]) -> Iterator[str]:
    pod = found["Deployment"]["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in (mount for container in containers for mount in container["volumeMounts"]):
        if mount["name"] not in volumes:
            yield f"there is no volume {mount['name']}"
        if "subPath" in mount:
            yield f"{mount['mountPath']} would never change: it is mounted by subPath"
    for volume in volumes.values():
        if "configMap" in volume and volume["configMap"]["name"] != found["ConfigMap"]["metadata"]["name"]:
            yield f"the volume {volume['name']} is of another ConfigMap"


def _agreements(found: dict[str, Manifest], container: Manifest, settings: Settings) -> Iterator[str]:
    ports = {"http": None, "admin": None} | {port["name"]: port["containerPort"] for port in container["ports"]}
    (address,) = settings.bind
    if _port(address) != ports["http"]:
        yield f"rrmaster serves {address}, and the port http is {ports['http']}"
    if _port(settings.admin or "") != ports["admin"]:
        yield f"--admin is {settings.admin}, and the port admin is {ports['admin']}"
    scraped = found["Deployment"]["spec"]["template"]["metadata"].get("annotations", {}).get("prometheus.io/port")
    if scraped != str(ports["admin"]):
        yield f"Prometheus asks the port {scraped}, and the port admin is {ports['admin']}"
    if settings.workers is not None:
        yield "rrmaster.toml has `workers`, which wins over WEB_CONCURRENCY"
    paths = set(re.findall(r'Route\("(/[^"]*)"', Path(admin_pages.__file__).read_text()))
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        if asked["port"] != "admin" or asked["path"] not in paths:
            yield f"the {probe} asks {asked['path']} of the port {asked['port']}, where rrmaster has no such page"
    if container["livenessProbe"]["httpGet"]["path"] == "/readyz":
        yield "the livenessProbe would kill a fleet in a crash loop again and again"


def _port(address: object) -> int:
    return int(str(address).rpartition(":")[2] or 0)


def _times(deployment: Manifest, container: Manifest, settings: Settings) -> Iterator[str]:
    pod = deployment["template"]["spec"]
    grace = pod.get("terminationGracePeriodSeconds", 30)
    hook = container.get("lifecycle", {}).get("preStop", {})
    slept = hook.get("sleep", {}).get("seconds", 0)
    needed = math.ceil(slept + settings.shutdown_delay + settings.graceful_timeout + LAST_S)
    if needed >= grace:
        yield f"the pod is killed after {grace} s, and may need {needed} s"
    probe = container["readinessProbe"]
    if probe["periodSeconds"] * probe["failureThreshold"] >= slept + settings.shutdown_delay:
        yield "the drain begins before the readiness probe has failed"


if __name__ == "__main__":
    folders = [Path(word) for word in sys.argv[1:]] or [HERE / "base", HERE / "busy"]
    wrong = []
    for folder in folders:
        wrong += [f"{folder.name}: {said}" for said in complaints(manifests(folder))]
    print("\n".join(wrong) or f"{', '.join(folder.name for folder in folders)}: nothing to complain of")
    sys.exit(bool(wrong))
