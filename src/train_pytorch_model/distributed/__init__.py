"""Several processes: launchers, the process group, the watchdog and preemption."""
