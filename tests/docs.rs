//! The documents and the code say the same.

use tidelock_core::Code;

#[test]
fn every_error_code_has_a_section() {
    let text = include_str!("../docs/ERRORS.md");
    for code in Code::ALL {
        assert!(text.contains(&format!("## {code}")), "docs/ERRORS.md has no section for {code}");
    }
}
