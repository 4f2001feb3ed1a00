"""Bad manifests: what is wrong, what `archsearch validate` says (field, value, remedy), and what the API server says.

Each is the sound manifest below with one thing changed, or a text of its own.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from typing import Any

DROP = object()
SOUND: dict[str, Any] = {
    "apiVersion": "archsearch.dev/v1alpha1",
    "kind": "NASExperiment",
    "metadata": {"name": "digits"},
    "spec": {
        "objectives": [{"metric": "accuracy", "goal": "Maximize", "target": "0.99"}],
        "modelSpace": {"zoo": {"name": "nasbench201", "args": {"channels": 8, "cells": 1}}},
        "strategy": {"name": "regularized-evolution", "config": {"population": 20, "sample": 5}},
        "evaluator": {
            "name": "classification",
            "config": {"dataset": "digits", "epochs": 2, "batchSize": 64, "learningRate": 0.05},
        },
        "budget": {"maxTrials": 40},
        "parallelTrials": 2,
        "storage": {"uri": "s3://bucket/prefix"},
    },
}


@dataclass(frozen=True)
class Bad:
    """`offline`: regular expression over what validate says. `api`: over what kubectl says; empty: the API server takes it."""

    name: str
    offline: str
    api: str = ""
    change: dict[str, Any] = field(default_factory=dict)
    text: str = ""

    def document(self) -> dict[str, Any]:
        document = copy.deepcopy(SOUND)
        for path, value in self.change.items():
            here: Any = document
            *parents, last = [int(step) if step.isdigit() else step for step in path.split("/")]
            for step in parents:
                here = here[step] if isinstance(here, list) else here.setdefault(step, {})
            if value is DROP:
                del here[last]
            elif isinstance(here, list) and last == len(here):
                here.append(value)
            else:
                here[last] = value
        return document

    def manifest(self) -> str:
        """The file's content; JSON is YAML."""
        return self.text or json.dumps(self.document(), indent=1)


def _bad(name: str, path: str, value: Any, offline: str, api: str = "", **more: Any) -> Bad:
    return Bad(name, offline, api, {path: value, **{key.replace("__", "/"): other for key, other in more.items()}})


_PYTHON = {"python": {"class": "my_space:Net"}}

WRONG_TYPES = [
    _bad("seed-text", "spec/seed", "3", r"spec\.seed: expected an integer \(it is \"3\"\); write it without", r"spec\.seed.*integer"),
    _bad("seed-fraction", "spec/seed", 1.5, r"spec\.seed: expected an integer", r"spec\.seed.*int32"),
    _bad("suspend-word", "spec/suspend", "yes", r"spec\.suspend: expected true or false", r"spec\.suspend.*boolean"),
    _bad("objectives-map", "spec/objectives", {"metric": "accuracy"}, r"spec\.objectives: expected a list", r"spec\.objectives.*(array|unknown|must be)|unknown field \"spec\.objectives"),
    _bad("target-number", "spec/objectives/0/target", 0.99, r"objectives\[0\]\.target: expected text \(it is 0\.99\); put it in quotes", r"target.*string"),
    _bad("trials-list", "spec/trials", [], r"spec\.trials: expected a mapping", r"spec\.trials.*object"),
    _bad("config-list", "spec/strategy/config", [1], r"spec\.strategy\.config: expected a mapping", r"strategy\.config.*object"),
    _bad("name-number", "spec/strategy/name", 5, r"spec\.strategy\.name: expected text \(it is 5\)", r"strategy\.name.*string"),
    _bad("spec-text", "spec", "digits", r"^error: spec: expected a mapping", r"spec.*object"),
    _bad("node-selector-number", "spec/trials", {"template": {"nodeSelector": {"gpu": 1}}}, r"nodeSelector\.gpu: expected text", r"nodeSelector\.gpu.*string"),
    _bad("per-job-word", "spec/trials", {"perJob": "auto"}, r"spec\.trials\.perJob: .*'Auto' \(it is \"auto\"\); did you mean 'Auto'", r"perJob.*\^Auto\$"),
    _bad("ttl-text", "spec/ttlSecondsAfterFinished", "1h", r"ttlSecondsAfterFinished: expected an integer", r"ttlSecondsAfterFinished.*integer"),
]  # fmt: skip
UNKNOWN_FIELDS = [
    _bad("unknown-top", "metadatas", {}, r"metadatas: no such field.*'metadata'", r"unknown field \"metadatas\""),
    _bad("unknown-spec", "spec/paralelTrials", 2, r"spec\.paralelTrials: no such field \(it is 2\); did you mean 'parallelTrials'", r"unknown field \"spec\.paralelTrials\""),
    _bad("snake-case", "spec/parallel_trials", 2, r"spec\.parallel_trials: no such field.*'parallelTrials'", r"unknown field"),
    _bad("misplaced", "spec/maxTrials", 2, r"spec\.maxTrials: no such field .*it belongs in spec\.budget", r"unknown field \"spec\.maxTrials\""),
    _bad("unknown-budget", "spec/budget/maxTrial", 2, r"spec\.budget\.maxTrial: no such field.*'maxTrials'", r"unknown field"),
    _bad("unknown-template", "spec/trials", {"template": {"hostNetwork": True}}, r"spec\.trials\.template\.hostNetwork: no such field", r"unknown field"),
    _bad("unknown-objective", "spec/objectives/0/direction", "max", r"objectives\[0\]\.direction: no such field", r"unknown field"),
    _bad("unknown-retries", "spec/trials", {"retries": {"oom": 1}}, r"spec\.trials\.retries\.oom: no such field", r"unknown field"),
    _bad("unknown-storage", "spec/storage/bucket", "b", r"spec\.storage\.bucket: no such field", r"unknown field"),
]  # fmt: skip
RANGES = [
    _bad("seed-negative", "spec/seed", -1, r"spec\.seed: expected 0 or more \(it is -1\)", r"spec\.seed.*greater than or equal to 0"),
    _bad("seed-large", "spec/seed", 2**31, r"spec\.seed: expected 2147483647 or less", r"spec\.seed.*(less than or equal|int32)"),
    _bad("no-parallel", "spec/parallelTrials", 0, r"spec\.parallelTrials: expected 1 or more", r"parallelTrials.*greater than or equal to 1"),
    _bad("many-parallel", "spec/parallelTrials", 100_000, r"spec\.parallelTrials: expected 10000 or less", r"parallelTrials.*less than or equal to 10000"),
    _bad("no-trials", "spec/budget/maxTrials", 0, r"spec\.budget\.maxTrials: expected 1 or more", r"maxTrials.*greater than or equal"),
    _bad("no-time", "spec/budget/maxDurationSeconds", 0, r"maxDurationSeconds: expected 1 or more", r"maxDurationSeconds.*greater than"),
    _bad("no-per-job", "spec/trials", {"perJob": 0}, r"spec\.trials\.perJob: expected 1 or more", r"perJob.*greater than or equal to 1"),
    _bad("no-checkpoints", "spec/retention", {"checkpoints": 0}, r"retention\.checkpoints: expected 1 or more", r"checkpoints.*greater than"),
    _bad("many-threads", "spec/trials", {"threads": 5000}, r"spec\.trials\.threads: expected 1024 or less", r"threads.*less than or equal"),
    _bad("negative-retries", "spec/trials", {"retries": {"timeout": -1}}, r"retries\.timeout: expected 0 or more", r"timeout.*greater than"),
    _bad("no-objectives", "spec/objectives", [], r"spec\.objectives: expected at least 1 entries", r"objectives.*at least 1"),
    _bad("many-objectives", "spec/objectives", [{"metric": f"m{i}"} for i in range(9)], r"spec\.objectives: expected at most 8 entries", r"objectives.*(at most|no more than) 8"),
    _bad("long-name", "metadata/name", "a" * 41, r"metadata\.name: expected at most 40", r"metadata\.name must be at most 40"),
    _bad("long-metric", "spec/objectives/0/metric", "m" * 64, r"objectives\[0\]\.metric: expected at most 63", r"metric.*(at most 63|Too long)"),
    _bad("input-shape-zero", "spec/modelSpace", {"python": {"class": "m:N", "inputShape": [0]}}, r"inputShape\[0\]: expected 1 or more", r"inputShape.*greater than"),
]  # fmt: skip
FORMS = [
    _bad("name-upper", "metadata/name", "Digits", r"metadata\.name: expected .*lower-case.*\(it is \"Digits\"\)", r"metadata\.name"),
    _bad("name-digit", "metadata/name", "1digits", r"metadata\.name: expected .*starting with a letter", r"metadata\.name must be"),
    _bad("name-dot", "metadata/name", "a.b", r"metadata\.name: expected", r"metadata\.name must be"),
    _bad("goal-lower", "spec/objectives/0/goal", "maximize", r"goal: expected 'Maximize' or 'Minimize'.*did you mean 'Maximize'", r"goal.*supported values"),
    _bad("isolation-lower", "spec/trials", {"isolation": "fork"}, r"isolation: expected .*did you mean 'Fork'", r"isolation.*supported values"),
    _bad("on-delete", "spec/retention", {"onDelete": "Keep"}, r"onDelete: expected 'Retain' or 'Delete'", r"onDelete.*supported values"),
    _bad("target-word", "spec/objectives/0/target", "high", r"target: expected a decimal number in quotes.*\(it is \"high\"\)", r"target.*should match"),
    _bad("metric-space", "spec/objectives/0/metric", "val accuracy", r"metric: expected the name of a metric.*\(it is \"val accuracy\"\)", r"metric.*should match"),
    _bad("class-no-colon", "spec/modelSpace", {"python": {"class": "my_space.Net"}}, r"python\.class: expected module:name.*\(it is \"my_space\.Net\"\)", r"class.*should match"),
    _bad("evaluator-path", "spec/evaluator", {"python": "train.py:fit()"}, r"evaluator\.python: expected module:name", r"evaluator\.python.*should match"),
    _bad("strategy-upper", "spec/strategy/name", "Random", r"spec\.strategy\.name: expected a name of lower-case", r"strategy\.name.*should match"),
    _bad("endpoint-no-scheme", "spec/storage/endpoint", "minio:9000", r"storage\.endpoint: expected http://host:port", r"endpoint.*should match"),
    _bad("endpoint-keys", "spec/storage/endpoint", "http://me:secret@minio:9000", r"storage\.endpoint: expected http.*without user and password", r"endpoint.*should match"),
    _bad("secret-name", "spec/storage/secretName", "My_Secret", r"secretName: expected the name of a Kubernetes object", r"secretName.*should match"),
    _bad("version", "apiVersion", "archsearch.dev/v1", r"apiVersion: expected 'archsearch\.dev/v1alpha1'", r"no matches for kind"),
    _bad("kind", "kind", "Experiment", r"kind: expected 'NASExperiment'", r"no matches for kind"),
]  # fmt: skip
CROSS_FIELD = [
    _bad("two-spaces", "spec/modelSpace/python", {"class": "m:N"}, r"spec\.modelSpace: give exactly one of zoo and python", r"spec\.modelSpace.*exactly one of zoo and python"),
    _bad("no-space", "spec/modelSpace", {}, r"spec\.modelSpace: give exactly one of zoo and python", r"exactly one of zoo and python"),
    _bad("two-evaluators", "spec/evaluator/python", "m:f", r"spec\.evaluator: give exactly one of name and python", r"exactly one of name and python"),
    _bad("no-evaluator", "spec/evaluator", {"config": {}}, r"spec\.evaluator: give exactly one of name and python", r"exactly one of name and python"),
    _bad("two-sources", "spec/modelSpace", {"python": {"class": "m:N", "source": {"configMapName": "a", "uri": "s3://b/c"}}}, r"source: give exactly one of configMapName and uri", r"exactly one of configMapName and uri"),
    _bad("parallel-above-budget", "spec/parallelTrials", 41, r"parallelTrials is 41, more than budget\.maxTrials 40: lower it or raise", r"parallelTrials must not be more than budget\.maxTrials"),
    _bad("pod-per-job", "spec/trials", {"isolation": "Pod", "perJob": 3}, r"spec\.trials: isolation Pod .*perJob must be 1 or Auto", r"perJob must be 1 or Auto"),
    _bad("metric-twice", "spec/objectives/1", {"metric": "accuracy"}, r"objectives names a metric twice: accuracy", r"[Dd]uplicate value", spec__strategy={"name": "random"}),
    _bad("missing-objectives", "spec/objectives", DROP, r"spec\.objectives: is required and missing; What the search improves", r"spec\.objectives.*[Rr]equired"),
    _bad("missing-strategy", "spec/strategy", DROP, r"spec\.strategy: is required and missing", r"spec\.strategy.*[Rr]equired"),
    _bad("missing-space", "spec/modelSpace", DROP, r"spec\.modelSpace: is required and missing", r"spec\.modelSpace.*[Rr]equired"),
    _bad("missing-metric", "spec/objectives/0", {}, r"objectives\[0\]\.metric: is required and missing", r"metric.*[Rr]equired"),
    _bad("missing-class", "spec/modelSpace", {"python": {}}, r"python\.class: is required and missing; module:Class", r"class.*[Rr]equired"),
    _bad("missing-name", "metadata", {}, r"metadata\.name: is required and missing", r"resource name may not be empty|name or generateName is required"),
    _bad("missing-spec", "spec", DROP, r"spec: is required and missing", r"spec.*[Rr]equired"),
    _bad("missing-version", "apiVersion", DROP, r"apiVersion: is required and missing; write apiVersion", r"apiVersion not set"),
    _bad("mutate-zoo", "spec/modelSpace/mutate", [{"match": "a", "remove": {}}], r"spec\.modelSpace: mutate needs python", r"mutate needs python"),
    _bad("mutate-nothing", "spec/modelSpace", {**_PYTHON, "mutate": [{"match": "a"}]}, r"modelSpace\.mutate\[0\]: give exactly one of replace, insert, remove and repeat", r"exactly one of replace, insert, remove and repeat"),
    _bad("mutate-nowhere", "spec/modelSpace", {**_PYTHON, "mutate": [{"remove": {}}]}, r"modelSpace\.mutate\[0\]: give match, type or call", r"give match, type or call"),
    _bad("mutate-two", "spec/modelSpace", {**_PYTHON, "mutate": [{"match": "a", "replace": {"candidates": {"k": "keep"}, "with": {"type": "torch.nn.ReLU"}}}]}, r"mutate\[0\]\.replace: give exactly one of candidates and with", r"exactly one of candidates and with"),
    _bad("mutate-repeated-call", "spec/modelSpace", {**_PYTHON, "mutate": [{"call": "relu", "repeat": {"depth": [1, 2]}}]}, r"mutate\[0\]: repeat is for modules: leave call out", r"repeat is for modules"),
    _bad("missing-kind", "kind", DROP, r"kind: is required and missing", r"[Kk]ind.*(not set|missing)"),
    _bad("stopping-name", "spec/stopping", {"name": "hyperband"}, r"spec\.stopping\.name: .*asha.*median", r"spec\.stopping\.name.*(Unsupported value|asha)"),
]  # fmt: skip
NOT_YET = [
    _bad("resume-from", "spec/resumeFrom", "s3://b/run", r"spec\.resumeFrom: is not supported yet", r"resumeFrom is not supported yet"),
    _bad("code-uri", "spec/modelSpace", {"python": {"class": "m:N", "source": {"uri": "s3://b/c"}}}, r"spec\.modelSpace\.python\.source\.uri: is not supported yet", r"source\.uri is not supported yet"),
    _bad("queue", "spec/trials", {"queueName": "gpu"}, r"spec\.trials\.queueName: is not supported yet", r"queueName is not supported yet"),
]  # fmt: skip
MEANING = [
    _bad("nodes", "spec/trials", {"nodes": 2}, r"spec\.trials\.nodes: strategy 'regularized-evolution' submits no supernet trials.*\(it is 2\); leave it at 1"),
    _bad("stopping-key", "spec/stopping", {"name": "asha", "config": {"reducton": 3}}, r"spec\.stopping\.config\.reducton: no such option .*'reduction'"),
    _bad("stopping-range", "spec/stopping", {"name": "median", "config": {"grace": 0}}, r"spec\.stopping\.config\.grace: expected 1 or more \(it is 0\)"),
    _bad("fidelity-beyond", "spec/strategy", {"name": "asha", "config": {"maxFidelity": 9}}, r"spec\.strategy\.config: the evaluator offers the fidelities 1 to 2; between minFidelity 1 and maxFidelity 9 is 2 the highest"),
    _bad("fidelity-single", "spec/strategy", {"name": "hyperband", "config": {"minFidelity": 2}}, r"spec\.strategy\.config: the only fidelity is 2, and with one there is nothing to promote to"),
    _bad("delete-storage", "spec/retention", {"onDelete": "Delete"}, r"spec\.retention\.onDelete: is not supported yet: .*leave it at Retain"),
    _bad("unknown-strategy", "spec/strategy/name", "regularised-evolution", r"spec\.strategy\.name: .*\(it is \"regularised-evolution\"\); did you mean 'regularized-evolution'"),
    _bad("unknown-strategy-key", "spec/strategy/config/populaton", 20, r"spec\.strategy\.config\.populaton: no such option .*'population'"),
    _bad("strategy-range", "spec/strategy/config/population", 0, r"spec\.strategy\.config\.population: expected 2 or more \(it is 0\)"),
    _bad("strategy-type", "spec/strategy/config/sample", "5", r"spec\.strategy\.config\.sample: expected an integer \(it is \"5\"\)"),
    _bad("sample-above-population", "spec/strategy/config/sample", 21, r"spec\.strategy\.config: sample is 21, more than population 20"),
    _bad("option-of-none", "spec/strategy", {"name": "random", "config": {"population": 3}}, r"config\.population: no such option of strategy 'random' \(it is 3\)"),
    _bad("two-objectives", "spec/objectives/1", {"metric": "loss", "goal": "Minimize"}, r"spec\.objectives: strategy 'regularized-evolution' improves one metric.*keep one, or take .*random"),
    _bad("unknown-evaluator", "spec/evaluator", {"name": "clasification"}, r"spec\.evaluator\.name: .*did you mean 'classification'"),
    _bad("unknown-evaluator-key", "spec/evaluator/config/epoch", 3, r"spec\.evaluator\.config\.epoch: no such option .*'epochs'"),
    _bad("evaluator-range", "spec/evaluator/config/epochs", 0, r"spec\.evaluator\.config\.epochs: expected 1 or more"),
    _bad("unknown-data", "spec/evaluator/config/dataset", "digit", r"spec\.evaluator\.config\.dataset: no data set is named 'digit'"),
    _bad("undeclared-constraint", "spec/constraints", [{"metric": "parms", "max": "5"}], r"constraints\[0\]\.metric: evaluator 'classification' reports no such metric, only accuracy.*did you mean 'params'"),
    _bad("empty-constraint", "spec/constraints", [{"metric": "params", "min": "7", "max": "5"}], r"spec\.constraints\[0\]: min 7 is more than max 5"),
    _bad("retrain-option", "spec/retrain", {"topK": 1, "config": {"epoch": 3}}, r"spec\.retrain\.config\.epoch: no such option .*'epochs'"),
    _bad("retrain-range", "spec/retrain", {"config": {"epochs": 0}}, r"spec\.retrain\.config\.epochs: expected 1 or more"),
    _bad("undeclared-metric", "spec/objectives/0/metric", "acc", r"objectives\[0\]\.metric: evaluator 'classification' reports no such metric, only accuracy"),
    _bad("mutate-candidate", "spec/modelSpace", {**_PYTHON, "mutate": [{"match": "a", "replace": {"candidates": {"k": "keep", "x": {"typ": "ReLU"}}}}]}, r"mutate\[0\]\.replace: candidates\.x: no such field 'typ'; expected keep, identity"),
    _bad("mutate-values", "spec/modelSpace", {**_PYTHON, "mutate": [{"match": "a", "values": {"k": 3}, "remove": {}}]}, r"mutate\[0\]: values\.k: 3 is no list of values"),
    _bad("mutate-depth", "spec/modelSpace", {**_PYTHON, "mutate": [{"match": "a", "repeat": {"depth": [3, 1]}}]}, r"mutate\[0\]\.repeat: depth \[3, 1\] is \[least, greatest\]"),
    _bad("unknown-zoo", "spec/modelSpace/zoo/name", "nasbench202", r"modelSpace\.zoo\.name: .*\(it is \"nasbench202\"\); did you mean 'nasbench201'"),
    _bad("uri-one-slash", "spec/storage/uri", "s3:/bucket", r"spec\.storage\.uri: storage URI 's3:/bucket'.*expected s3://BUCKET/PREFIX", r"uri is s3:/bucket; in a cluster it must be s3://"),
    _bad("uri-no-bucket", "spec/storage/uri", "s3://", r"spec\.storage\.uri: .*bucket", r"spec\.storage.*s3://bucket"),
    _bad("uri-bucket-case", "spec/storage/uri", "s3://My_Bucket/x", r"spec\.storage\.uri: .*'s3://My_Bucket/x'.*lower-case", r"uri is s3://My_Bucket/x"),
    _bad("uri-scheme", "spec/storage/uri", "gs://bucket/x", r"spec\.storage\.uri: .*'gs'", r"uri is gs://bucket/x"),
    _bad("endpoint-alone", "spec/storage", {"endpoint": "http://minio:9000"}, r"spec\.storage: has an endpoint but no uri"),
    _bad("quantity", "spec/trials", {"template": {"resources": {"limits": {"cpu": "two"}}}}, r"resources\.limits\.cpu: expected a quantity \(it is \"two\"\)"),
    _bad("resources-key", "spec/trials", {"template": {"resources": {"limit": {"cpu": 1}}}}, r"resources\.limit: no such field .*'limits'"),
    _bad("own-environment", "spec/trials", {"template": {"env": [{"name": "ARCHSEARCH_X", "value": "1"}]}}, r"env\[0\]\.name: names that start with ARCHSEARCH_ are archsearch's own"),
]  # fmt: skip

_HEAD = "apiVersion: archsearch.dev/v1alpha1\nkind: NASExperiment\n"
FILES = [
    Bad("code-tag", r"line 3: has the tag !!python/object/apply:os\.system; .*remove the tag", text=_HEAD + "metadata: !!python/object/apply:os.system ['true']\n"),
    Bad("own-tag", r"line 3: has the tag !secret", text=_HEAD + "metadata: !secret x\n"),
    Bad("duplicate-key", r"line 5: has the key 'seed' again; it stands in line 4 too; keep one", text=_HEAD + "spec:\n  seed: 1\n  seed: 2\n"),
    Bad("two-documents", r"line 3: starts a second document; keep one", text=_HEAD + "---\n" + _HEAD),
    Bad("not-yaml", r"line \d+, column \d+: is not YAML", text=_HEAD + "spec: {seed: [\n"),
    Bad("tab", r"line 4.*is not YAML", text=_HEAD + "spec:\n\tseed: 1\n"),
    Bad("a-list", r"holds a list, not a mapping", text="- 1\n- 2\n"),
    Bad("empty", r"is empty; write a NASExperiment", text="# nothing\n"),
    Bad("alias-bomb", r"when its aliases are written out", text="a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9))),
    Bad("alias-loop", r"has an alias that holds itself", text=_HEAD + "spec: &loop {x: *loop}\n"),
    Bad("number-key", r"line 3: has the key 1, which is not text; put the key in quotes", text=_HEAD + "spec: {1: 2}\n"),
    Bad("not-finite", r"has the number \.nan, which JSON cannot hold", text=_HEAD + "spec: {seed: .nan}\n"),
    Bad("deep", r"is nested more than 64 deep", text="[" * 80 + "]" * 80 + "\n"),
    Bad("large", r"is larger than 1024 KiB", text="# " + "x" * (1024 * 1024) + "\n"),
]  # fmt: skip

DOCUMENTS = [*WRONG_TYPES, *UNKNOWN_FIELDS, *RANGES, *FORMS, *CROSS_FIELD, *NOT_YET, *MEANING]
ALL = [*DOCUMENTS, *FILES]
