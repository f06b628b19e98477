"""Use of CPU, memory and GPU while a stage runs, as the metrics ``system/...`` of the stage's live run.

MLflow's own monitor does the work in a thread. Here it is bound to one run of one store, and its errors are not shown:
:mod:`stages.tracking.live` prints one line of warning for any error.
"""

from __future__ import annotations

import logging
from typing import Any

# Most stages take a few minutes at most.
INTERVAL_SECONDS = 2.0
# The interval doubles after this number of points, so an hour has about three hundred points.
_POINTS_PER_INTERVAL = 60


def start_monitor(run_id: str, uri: str) -> Any:
    """Start a monitor, which :func:`stop_monitor` ends."""
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    class Monitor(SystemMetricsMonitor):
        def monitor(self) -> None:
            # CPU use is the mean since the last sample, so the first sample needs some time before it.
            self._shutdown_event.wait(min(0.5, self.sampling_interval))
            super().monitor()

        def publish_metrics(self, metrics: dict[str, float]) -> None:
            super().publish_metrics(metrics)
            if self._logging_step % _POINTS_PER_INTERVAL == 0:
                self.sampling_interval *= 2

    logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)
    monitor = Monitor(run_id, sampling_interval=INTERVAL_SECONDS, tracking_uri=uri)
    # Disk and network are those of the whole machine, and matter to no stage.
    monitor.monitors = [m for m in monitor.monitors if not isinstance(m, (DiskMonitor, NetworkMonitor))]
    monitor.start()
    return monitor


def stop_monitor(monitor: Any, send: bool = True) -> None:
    """Stop the thread, and send the points that were not sent yet, unless the store is lost (``send`` False)."""
    if not send:
        monitor.mlflow_logger.data.clear()
    monitor.finish()
