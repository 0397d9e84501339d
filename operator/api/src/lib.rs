//! `ImAccessCluster`, the custom resource: its types, schema and validation.
