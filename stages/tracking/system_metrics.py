"""What the machine did while a stage ran: CPU, memory and GPU, as ``system/...`` of the stage's live run. Cosmetic.

MLflow's own monitor does the work, in a thread. It is bound to one run of one store here, and says nothing when it
fails: `stages.tracking.live` has one line of warning for all that can go wrong.
"""

from __future__ import annotations

import logging
from typing import Any

# Most stages take a minute or a few.
INTERVAL_SECONDS = 2.0
# After so many points the interval doubles: an hour is some three hundred points.
_POINTS_PER_INTERVAL = 60


def start_monitor(run_id: str, uri: str) -> Any:
    """A running monitor; give it to :func:`stop_monitor`."""
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    class Monitor(SystemMetricsMonitor):
        def monitor(self) -> None:
            # CPU use is the mean since the last question, so the first answer needs something to be the mean of.
            self._shutdown_event.wait(min(0.5, self.sampling_interval))
            super().monitor()

        def publish_metrics(self, metrics: dict[str, float]) -> None:
            super().publish_metrics(metrics)
            if self._logging_step % _POINTS_PER_INTERVAL == 0:
                self.sampling_interval *= 2

    logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)
    monitor = Monitor(run_id, sampling_interval=INTERVAL_SECONDS, tracking_uri=uri)
    # Disk and network are the whole machine's, and no stage lives from them.
    monitor.monitors = [m for m in monitor.monitors if not isinstance(m, (DiskMonitor, NetworkMonitor))]
    monitor.start()
    return monitor


def stop_monitor(monitor: Any, send: bool = True) -> None:
    """Stop the thread, and send what it has not sent yet, unless the store is lost."""
    if not send:
        monitor.mlflow_logger.data.clear()
    monitor.finish()
