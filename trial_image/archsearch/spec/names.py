"""Every name that more than one part must agree on: labels, environment variables, ports, paths, child objects."""

from __future__ import annotations

GROUP = "archsearch.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "NASExperiment"
PLURAL = "nasexperiments"
SINGULAR = "nasexperiment"
SHORT_NAME = "nasx"

# Labels. Experiment names are bounded (NAME_MAX), so that each fits a label value and each child name 63 characters.
LABEL_EXPERIMENT = f"{GROUP}/experiment"
LABEL_EXPERIMENT_UID = f"{GROUP}/experiment-uid"
LABEL_COMPONENT = f"{GROUP}/component"
COMPONENT_STRATEGY = "strategy"
COMPONENT_TRIAL = "trial"
ANNOTATION_SPEC_HASH = f"{GROUP}/spec-hash"
NAME_MAX = 40

# Environment variables.
ENV_DRIVER_SETTINGS = "ARCHSEARCH_DRIVER_SETTINGS"  # JSON of archsearch.spec.wiring.DriverSettings; holds no secret
ENV_DRIVER_URL = (
    "ARCHSEARCH_DRIVER_URL"  # where a worker leases; the supervisor takes it out of its children's environment
)
ENV_SECRETS_DIR = "ARCHSEARCH_SECRETS_DIR"  # a directory in memory; read and emptied by the supervisor
ENV_WORK_DIR = "ARCHSEARCH_WORK_DIR"
ENV_WORKER_NAME = "ARCHSEARCH_WORKER_NAME"  # the pod's name, or local-N
ENV_JOB_NAME = "ARCHSEARCH_JOB_NAME"  # the trial Job's name, or local-N
ENV_RANK = "ARCHSEARCH_RANK"  # of one of several workers of one Job, which run a trial together; absent: 0
ENV_RANKS = "ARCHSEARCH_RANKS"  # how many they are; absent: 1
ENV_ADDRESS = "ARCHSEARCH_ADDRESS"  # where the others reach this one
ENV_CPUS = "ARCHSEARCH_CPUS"  # a worker's share of the CPUs where several share one machine; absent: all
ENV_CODE_DIR = "ARCHSEARCH_CODE_DIR"  # put first on sys.path of trial children: the user's own modules

# Files in the secrets directory.
SECRET_TOKEN_KEY = "token"
STORAGE_SECRET_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

# Ports and paths inside pods.
LEASE_PORT = 8470
METRICS_PORT = 8471
HEALTH_PORT = 8472
RENDEZVOUS_PORT = 8473  # of rank 0, where the ranks of one trial meet
CONTAINER_UID = 65532
PATH_TOKEN = "/var/run/archsearch/token"  # a mounted Secret: strategy pod and the trial pods' init container
PATH_STORAGE_SECRET = "/var/run/archsearch/storage"
PATH_CA_BUNDLE = "/etc/archsearch/ca"  # a mounted ConfigMap with the key ca.crt
PATH_SECRETS = "/run/archsearch/secrets"  # in memory, shared by a trial pod's init container and its supervisor
PATH_CODE = "/opt/archsearch/code"
PATH_WORK = "/tmp/archsearch"

# Exit codes of a worker.
EXIT_DONE = 0
EXIT_REFUSED = 78  # this worker can never serve here (another version): its Job fails at once
EXIT_TERMINATED = 143  # told to go: the Job ignores it and replaces the pod


def strategy_job(experiment: str) -> str:
    return f"{experiment}-strategy"


def service(experiment: str) -> str:
    return f"{experiment}-strategy"


def service_account(experiment: str) -> str:
    return f"{experiment}-strategy"


def role(experiment: str) -> str:
    return f"{experiment}-strategy"


def token_secret(experiment: str, uid: str = "") -> str:
    """With `uid` no Secret of an earlier experiment of that name is taken for this one's: nobody may read it."""
    return "-".join(filter(None, (experiment, "token", uid[:8])))


def storage_secret(experiment: str, uid: str = "") -> str:
    return "-".join(filter(None, (experiment, "storage", uid[:8])))


def network_policy(experiment: str, component: str) -> str:
    return f"{experiment}-{component}"


def trial_job(experiment: str, epoch: int, counter: int) -> str:
    """The name of a trial Job; deterministic in the driver's epoch and its own counter."""
    return f"{experiment}-t{epoch}-{counter}"
