//! Against a real API server, and on a real cluster: what no fake of either would show.
//!
//! The programs come from `tests/k8s/build.sh`, which `make test` runs first.

mod api_server;
mod cluster;
mod datastore;
mod deploy;
mod host_tools;
mod ipam;
mod rights;
mod scale;
mod statuses;
