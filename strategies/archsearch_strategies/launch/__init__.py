"""Starting workers: processes of this machine, or Jobs of a cluster."""
