//! Calico's selectors as regular expressions (RE2), for the API server to refuse what is none.
//!
//! The grammar is regular but for parentheses: that each that opens is closed is left to the agents.

/// White space.
const SPACE: &str = "[ \\t]*";

/// The longest selector.
pub(super) const LENGTH: usize = 64 * 1024;

/// What a selector that is refused is told.
pub(super) const MESSAGE: &str = "must be a selector, such as has(key) && key == 'value'; global() may only be a rule's \
                                  `namespaceSelector`";

/// One comparison, or a function.
fn operand() -> String {
    let key = "[a-zA-Z0-9_./-]+";
    let text = "(\"[^\"]*\"|'[^']*')";
    let set = format!("\\{{{SPACE}({text}{SPACE}(,{SPACE}{text}{SPACE})*(,{SPACE})?)?\\}}");
    let sets = format!("[ \\t]+(not{SPACE}in|in){SPACE}{set}");
    let texts = format!("({SPACE}(==|!=)|[ \\t]+(contains|(starts|ends){SPACE}with)){SPACE}{text}");
    format!("(all\\({SPACE}\\)|has\\({SPACE}{key}{SPACE}\\)|{key}({texts}|{sets}))")
}

/// Operands with what joins them; parentheses and negations are anywhere before an operand, and closing ones anywhere behind.
fn expression() -> String {
    let part = format!("([!(]{SPACE})*{}{SPACE}(\\){SPACE})*", operand());
    format!("{part}((&&|\\|\\|){SPACE}{part})*")
}

/// A selector without `global()`, or nothing.
pub(super) fn anywhere() -> String {
    format!("^{SPACE}({})?$", expression())
}

/// A selector of namespaces in a rule, which may be `global()` alone.
pub(super) fn of_namespaces() -> String {
    format!("^{SPACE}(({})?|(\\({SPACE})*global\\({SPACE}\\){SPACE}(\\){SPACE})*)$", expression())
}
