//! The resources that Tortie reads and writes, as Kubernetes and Calico define them.
//!
//! Kubernetes kinds are *slim*: only the fields that a node agent needs, so that a cluster of 50,000 pods stays small. Kinds that
//! carry intent for us (NetworkPolicy, IPPool, BGPConfiguration ...) are whole and strict: a field we do not know is an
//! error, because a mistyped `ingres:` must never weaken what is enforced. This crate is pure: no IO, no clock.

pub mod calico;
mod decode;
pub mod field;
pub mod k8s;
mod kind;
pub mod meta;
pub mod object;
#[cfg(feature = "schema")]
pub mod schema;
pub mod selector;
pub mod status;
mod validate;

pub use decode::{Decoded, decode, decode_as};
pub use field::FieldError;
pub use kind::Kind;
pub use meta::ObjectMeta;
pub use object::{Object, ObjectKey};
