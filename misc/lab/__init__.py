"""The lab: a registry, containerd 1.6 and 2.x, `lacewing daemon` and images to try them with, all under one scratch folder."""
