"""Faults of the trial pods' template: what would touch archsearch's own, and what the API server says of it."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from archsearch.spec import names, reasons
from archsearch.spec.experiment import ExperimentSpec
from archsearch.spec.problems import Problem
from archsearch_strategies.launch import manifests
from archsearch_strategies.launch.base import Waiting
from archsearch_strategies.launch.kubeapi import ApiError


def template_problems(spec: ExperimentSpec) -> list[Problem]:
    """What a template may not do although Kubernetes would take it: touch what archsearch mounts or sets."""
    template = spec.trials.template
    base = "spec.trials.template"
    problems: list[Problem] = []
    for field, entries in (("volumes", template.volumes), ("volumeMounts", template.volume_mounts)):
        for index, entry in enumerate(entries):
            name = str(entry.get("name", ""))
            if name.startswith(manifests.RESERVED_PREFIX):
                problems.append(
                    _reserved(
                        f"{base}.{field}[{index}].name", "volumes named archsearch-… are", name, "choose another name"
                    )
                )
    for index, mount in enumerate(template.volume_mounts):
        path = str(mount.get("mountPath", ""))
        if any(_overlaps(path, reserved) for reserved in manifests.RESERVED_PATHS):
            remedy = f"mount outside {', '.join(manifests.RESERVED_PATHS)}"
            problems.append(_reserved(f"{base}.volumeMounts[{index}].mountPath", "the path is", path, remedy))
    for index, variable in enumerate(template.env):
        name = str(variable.get("name", ""))
        if name.startswith("ARCHSEARCH_"):
            problems.append(
                _reserved(f"{base}.env[{index}].name", "variables named ARCHSEARCH_… are", name, "choose another name")
            )
    for field, keys in (("labels", template.labels), ("annotations", template.annotations)):
        for key in keys:
            if key.startswith(f"{names.GROUP}/"):
                problems.append(
                    _reserved(f"{base}.{field}", f"keys below {names.GROUP}/ are", key, "choose another key")
                )
    return problems


def _overlaps(path: str, reserved: str) -> bool:
    """A mount at or above a reserved path hides it; /tmp may have mounts below."""
    mount = PurePosixPath(path or "/")
    return (
        mount == PurePosixPath(reserved)
        or mount in PurePosixPath(reserved).parents
        or (reserved not in {manifests.PATH_TMP, manifests.PATH_SHM} and PurePosixPath(reserved) in mount.parents)
    )


def _reserved(path: str, what: str, value: str, remedy: str) -> Problem:
    return Problem(path, f"{what} archsearch's own", value, remedy)


def refusal(error: ApiError) -> Waiting | None:
    """What a refused creation means to the user; None: try again and say nothing."""
    if error.code == 403:
        return Waiting(reasons.QUOTA_PENDING, f"the API server does not take a trial Job: {error}")
    if error.code in {400, 422}:
        return Waiting(reasons.SPEC_INVALID, "; ".join(str(problem) for problem in template_faults(error)))
    return None


_POD_SPEC = re.compile(r"spec\.template\.spec\.(containers\[\d+\]\.)?")


def template_faults(error: ApiError) -> list[Problem]:
    """The API server's faults, with the paths of the manifest."""
    base = "spec.trials.template."
    remedy = "see `kubectl explain pod.spec` for what the field takes"
    if error.causes:
        seen: dict[tuple[str, str], Problem] = {}
        for path, message in error.causes:
            where = _POD_SPEC.sub(base, path)
            seen.setdefault((where, message), Problem(where, message, remedy=remedy))
        return list(seen.values())
    return [Problem(base.rstrip("."), _POD_SPEC.sub(base, str(error)), remedy=remedy)]
