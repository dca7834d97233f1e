//! What a pod VM claims from its host: tap devices, vsock, cgroup, images of root file systems.
