"""The process node: runs pods bound to its Node objects as local processes, against any Kubernetes API."""

from warmfleet_localcluster.node.process_node import ProcessNode
from warmfleet_localcluster.node.settings import ImageEntry, ImageMap, NodeShape, Settings, random_loopback_range

__all__ = ["ImageEntry", "ImageMap", "NodeShape", "ProcessNode", "Settings", "random_loopback_range"]
