"""From relations to channels, groups, fold sites and what they cost."""

from onnxmerge.channels.groups import Channels, Group, find_channels

__all__ = ["Channels", "Group", "find_channels"]
