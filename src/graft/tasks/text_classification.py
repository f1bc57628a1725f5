from typing import Literal
from graft.tasks import TaskConfig
class Config(TaskConfig):
    """Text classification."""
    name: Literal["text_classification"] = "text_classification"
TASK = None
