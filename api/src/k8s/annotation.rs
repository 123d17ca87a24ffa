//! What pods' annotations have in common: where they stand, and quantities in them.

use super::quantity::parse_quantity;
use crate::field::{FieldError, Path};
use crate::meta::StringMap;

/// Where an annotation stands.
pub(super) fn path(annotation: &str) -> Path {
    Path::root().field("metadata").field("annotations").key(annotation)
}

/// The quantity that an annotation holds, the nearest in `range`; what is wrong with it goes into `errors`.
pub(super) fn quantity(
    annotations: &StringMap,
    name: &str,
    range: (u64, u64),
    errors: &mut Vec<FieldError>,
) -> Option<u64> {
    let text = annotations.get(name)?;
    let Some(value) = parse_quantity(text.trim()) else {
        errors.push(FieldError::invalid(path(name), text, "must be a quantity, such as 10M or 1Gi"));
        return None;
    };
    let (least, most) = range;
    if !(least..=most).contains(&value) {
        let remedy = format!("must be between {least} and {most}; the nearest of them is taken");
        errors.push(FieldError::invalid(path(name), text, &remedy));
    }
    Some(value.clamp(least, most))
}

/// A pod with these annotations.
#[cfg(test)]
pub(super) fn pod(annotations: &[(&str, &str)]) -> super::Pod {
    let mut pod = super::Pod::default();
    pod.metadata.annotations =
        annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    pod
}
