"""Which form of the tests is run, and with which seed."""

import os
import secrets

REQUIRED = os.environ.get("ACEQUIA_REQUIRE_K8S") == "1"
SHORT = os.environ.get("ACEQUIA_K8S_SHORT") == "1"
"""One log, one pod deleted, one rollout, the Job, the network; no KEDA."""
SEED = int(os.environ.get("ACEQUIA_K8S_SEED") or secrets.randbelow(10**6))
KEEP = os.environ.get("ACEQUIA_K8S_KEEP") == "1"
