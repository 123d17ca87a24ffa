//! From what a probe's tries saw to a verdict. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};
use tortie_api::k8s::Protocol;

/// What one try saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// This name came back.
    Answered(String),
    /// A reset, an ICMP port unreachable, or the source's own firewall said no.
    Refused,
    /// Nothing came back.
    Silent,
    /// A connection was made, and then no name came.
    Mute,
    /// The try could not be made, or the network answered something else.
    Fault(String),
}

/// Whether a pair may talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The right pod's name came back.
    Allow,
    /// Silence or refusal, in every try.
    Deny,
    /// Anything else.
    Error,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Error => "error",
        })
    }
}

/// One row of the matrix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// `NAMESPACE/NAME`, a node's name, or `outside`.
    pub from: String,
    /// `NAMESPACE/NAME`.
    pub to: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
    /// The verdict.
    pub verdict: Verdict,
    /// Why the verdict is `error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Whether a further try could change the verdict.
pub fn wants_retry(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::Answered(_))
}

/// The verdict on all tries of a probe to the pod `expected`. `arrived` says that a datagram of it reached that pod.
pub fn judge(expected: &str, outcomes: &[Outcome], arrived: bool) -> (Verdict, Option<String>) {
    let mut reason = None;
    for outcome in outcomes {
        match outcome {
            Outcome::Answered(name) if name == expected => return (Verdict::Allow, None),
            Outcome::Answered(name) => reason = Some(format!("{name:?} answered in its place")),
            Outcome::Mute => reason = Some("connected, but the pod's name did not come back".to_owned()),
            Outcome::Fault(fault) => reason = Some(fault.clone()),
            Outcome::Refused | Outcome::Silent => {}
        }
    }
    if reason.is_none() && arrived {
        reason = Some("the request reached the pod, but the answer did not come back".to_owned());
    }
    match reason {
        Some(reason) => (Verdict::Error, Some(reason)),
        None => (Verdict::Deny, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(outcomes: &[Outcome], arrived: bool) -> Verdict {
        judge("x/a", outcomes, arrived).0
    }

    #[test]
    fn the_right_name_allows_in_any_try() {
        assert_eq!(verdict(&[Outcome::Answered("x/a".into())], false), Verdict::Allow);
        assert_eq!(verdict(&[Outcome::Silent, Outcome::Answered("x/a".into())], true), Verdict::Allow);
    }

    #[test]
    fn silence_and_refusal_deny() {
        assert_eq!(verdict(&[Outcome::Silent, Outcome::Refused], false), Verdict::Deny);
    }

    #[test]
    fn anything_else_is_an_error() {
        assert_eq!(verdict(&[Outcome::Answered("x/b".into())], false), Verdict::Error);
        assert_eq!(verdict(&[Outcome::Mute, Outcome::Silent], false), Verdict::Error);
        assert_eq!(verdict(&[Outcome::Silent, Outcome::Fault("no route".into())], false), Verdict::Error);
    }

    #[test]
    fn a_lost_answer_is_no_denial() {
        let (verdict, reason) = judge("x/a", &[Outcome::Silent, Outcome::Silent], true);
        assert_eq!(verdict, Verdict::Error);
        assert!(reason.is_some_and(|reason| reason.contains("answer")));
    }

    #[test]
    fn rows_have_the_fixed_form() {
        let row = Row {
            from: "x/a".into(),
            to: "y/b".into(),
            protocol: Protocol::Tcp,
            port: 80,
            verdict: Verdict::Deny,
            reason: None,
        };
        let text = serde_json::to_string(&row).unwrap();
        assert_eq!(text, r#"{"from":"x/a","to":"y/b","protocol":"TCP","port":80,"verdict":"deny"}"#);
    }
}
