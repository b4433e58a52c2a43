"""What every process of the project needs around its own work: settings, logs, clock, health, metrics, workers."""
