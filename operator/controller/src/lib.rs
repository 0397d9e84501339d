//! Observes, plans, applies: the only part of imaccess that writes to Kubernetes.
