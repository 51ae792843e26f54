"""Training in several processes: launchers, the process group, the watchdog and preemption."""
