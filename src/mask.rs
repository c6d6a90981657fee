//! Which fields an update is about, as its mask or its message says.

use crate::{
    error::{Error, Result, Violation},
    pb::ErrorReason,
};

/// What an update mask names of the fields that can be changed; an empty mask names those present.
/// `fixed` are the id, which names the record, and the fields that only the service writes: a mask may
/// name them, to no effect.
pub fn masked(
    mask: Option<&prost_types::FieldMask>,
    fields: &[(&'static str, bool)],
    fixed: &[&str],
) -> Result<Vec<&'static str>> {
    let paths = mask.map(|mask| &mask.paths[..]).unwrap_or_default();
    if paths.is_empty() {
        return Ok(fields.iter().filter(|(_, present)| *present).map(|(name, _)| *name).collect());
    }
    if paths.iter().any(|path| path == "*") {
        return Ok(fields.iter().map(|(name, _)| *name).collect());
    }
    let known = |path: &String| fields.iter().map(|(name, _)| *name).find(|name| name == path);
    let refused = |path: &String| {
        let names = fields.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let text =
            format!("names \"{path}\", which is no field that can be changed: those are {names}");
        Violation::of(ErrorReason::ImmutableField, "update_mask", text)
    };
    let unknown = paths
        .iter()
        .filter(|path| known(path).is_none() && !fixed.contains(&path.as_str()))
        .map(refused)
        .collect::<Vec<_>>();
    if unknown.is_empty() {
        Ok(paths.iter().filter_map(known).collect())
    } else {
        Err(Error::Invalid(unknown))
    }
}

/// What an update says of a field that never changes; nothing where its mask names other fields.
pub fn said<'a>(mask: Option<&prost_types::FieldMask>, sent: &'a str) -> &'a str {
    let paths = mask.map(|mask| &mask.paths[..]).unwrap_or_default();
    if paths.is_empty() || paths.iter().any(|path| path == "*") { sent } else { "" }
}

/// Refuses another value of a field that never changes.
///
/// # Errors
///
/// `IMMUTABLE_FIELD`.
pub fn check_fixed(field: &str, said: &str, stored: &str) -> Result<()> {
    if said.is_empty() || said == stored {
        return Ok(());
    }
    let what = format!("is \"{stored}\" and cannot be changed");
    Err(Error::Invalid(vec![Violation::of(ErrorReason::ImmutableField, field, what)]))
}
