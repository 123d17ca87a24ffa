//! Label selectors as kubectl's `-l` takes them.

use tortie_api::k8s::{LabelSelector, LabelSelectorRequirement, SelectorOperator};

/// Reads `key=value`, `key!=value`, `key in (a,b)`, `key notin (a,b)`, `key` and `!key`, joined by commas.
pub(crate) fn parse(text: &str) -> Result<LabelSelector, String> {
    let mut selector = LabelSelector::default();
    for part in split(text) {
        selector.match_expressions.push(requirement(part.trim()).ok_or_else(|| {
            format!(
                "label selector: {part:?} is none of key=value, key!=value, key in (a,b), key notin (a,b), key, !key"
            )
        })?);
    }
    Ok(selector)
}

/// Splits at the commas outside parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    text.split(move |c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    })
    .collect()
}

fn requirement(part: &str) -> Option<LabelSelectorRequirement> {
    let make = |key: &str, operator, values: Vec<String>| {
        let good = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        let key = key.trim();
        (!key.is_empty() && key.chars().all(good)).then(|| LabelSelectorRequirement {
            key: key.to_owned(),
            operator,
            values,
        })
    };
    if let Some((key, value)) = part.split_once("!=") {
        return make(key, SelectorOperator::NotIn, vec![value.trim().to_owned()]);
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return make(key, SelectorOperator::In, vec![value.trim().to_owned()]);
    }
    if let Some((head, values)) = part.split_once('(') {
        let values = values.trim_end().strip_suffix(')')?.split(',').map(|value| value.trim().to_owned()).collect();
        let (key, word) = head.trim().rsplit_once(char::is_whitespace)?;
        let operator = match word {
            "in" => SelectorOperator::In,
            "notin" => SelectorOperator::NotIn,
            _ => return None,
        };
        return make(key, operator, values);
    }
    match part.strip_prefix('!') {
        Some(key) => make(key, SelectorOperator::DoesNotExist, Vec::new()),
        None => make(part, SelectorOperator::Exists, Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        parse(selector).unwrap().matches(&labels)
    }

    #[test]
    fn every_form() {
        let labels = [("app", "web"), ("tier", "front")];
        for yes in
            ["app=web", "app==web", "app!=db", "app in (db, web)", "app notin (db),tier", "!role", "app,tier=front"]
        {
            assert!(matches(yes, &labels), "{yes}");
        }
        for no in ["app=db", "app!=web", "app in (db)", "role", "!app", "app=web,tier=back"] {
            assert!(!matches(no, &labels), "{no}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["", ",", "a b", "app in", "app in web", "app in (web", "app near (web)", "=x", "!"] {
            assert!(parse(bad).is_err(), "{bad:?} passed");
        }
    }
}
