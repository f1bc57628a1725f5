"""Local servers and workers: start them, find them again, end them.

MLflow and Prefect each have a server and, for people, a UI. Both bind to the loopback address and keep their state in
the clone (``mlflow/store``, ``.graft/prefect``). A pipeline run uses the Prefect server that it finds (the environment
variable ``PREFECT_API_URL``, then one started by ``graft ui`` or ``graft worker``); where there is none it starts a
private one, without UI, for as long as it lasts: about 3 s and 3 CPU s, most of which pass while Prefect is imported.

``finding`` knows which servers there are, ``processes`` starts and ends one, ``servers`` says how each is started, and
``commands`` is what ``graft ui`` and ``graft worker`` do.
"""

from graft.services.commands import ui, worker
from graft.services.finding import API_VARIABLE, environment, mlflow_url, prefect_home, server_url
from graft.services.processes import Server, free_port, healthy, start
from graft.services.servers import prefect_api, start_mlflow, start_prefect

__all__ = [
    "API_VARIABLE",
    "Server",
    "environment",
    "free_port",
    "healthy",
    "mlflow_url",
    "prefect_api",
    "prefect_home",
    "server_url",
    "start",
    "start_mlflow",
    "start_prefect",
    "ui",
    "worker",
]
