"""Is what the manifests say possible, and does rrmaster agree?  `python check.py [FOLDER]`

The schemas, which `kubernetes-validate` brings, know names and types.  They let pass an image that is pulled
"Sometimes", the port 70000, a pod without containers, and a selector that matches nothing.  So this looks at values,
and at what the files say of each other and of rrmaster.  The status is 1 if there is something to complain of.
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
    yield from _values(containers)
    yield from _selectors(found, deployment["spec"]["template"]["metadata"]["labels"])
    yield from _references(found, containers)
    settings = settings_in(found)
    yield from _agreements(containers[0], settings)
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


def _values(containers: list[Manifest]) -> Iterator[str]:
    for container in containers:
        policy = container.get("imagePullPolicy", "Always")
        if policy not in ("Always", "IfNotPresent", "Never"):
            yield f"imagePullPolicy {policy} is none of Always, IfNotPresent and Never"
        for port in container.get("ports", []):
            if not 1 <= port["containerPort"] <= 65535:
                yield f"port {port['containerPort']} is none"
        if container["image"].endswith(":latest") or ":" not in container["image"]:
            yield f"the image {container['image']} has no version"


def _selectors(found: dict[str, Manifest], labels: Manifest) -> Iterator[str]:
    pod = found["Deployment"]["spec"]["template"]["spec"]
    wanted = {
        "Deployment": found["Deployment"]["spec"]["selector"]["matchLabels"],
        "Service": found["Service"]["spec"]["selector"],
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


def _agreements(container: Manifest, settings: Settings) -> Iterator[str]:
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    (address,) = settings.bind
    if _port(address) != ports["http"]:
        yield f"rrmaster serves {address}, and the port http is {ports['http']}"
    if _port(settings.admin or "") != ports["admin"]:
        yield f"--admin is {settings.admin}, and the port admin is {ports['admin']}"
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
