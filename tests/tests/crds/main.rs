//! The CustomResourceDefinitions in `deploy/crds`: that they are those of the types in `api/`, and what they say of objects.
#![allow(missing_docs, reason = "a test")]

mod files;
