"""Shared by all tests: few threads, a private ROS domain, discovery on this machine only."""

from __future__ import annotations

import atexit
import os
import random
import shutil
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
if os.environ.get("ROS_DISTRO") == "humble":
    os.environ.setdefault("ROS_LOCALHOST_ONLY", "1")
os.environ.setdefault("ROS_DOMAIN_ID", str(random.SystemRandom().randint(42, 99)))

if "EFM_CACHE" not in os.environ:  # exported networks of tests do not belong into the user's cache
    os.environ["EFM_CACHE"] = tempfile.mkdtemp(prefix="efm-cache-")
    atexit.register(shutil.rmtree, os.environ["EFM_CACHE"], ignore_errors=True)
