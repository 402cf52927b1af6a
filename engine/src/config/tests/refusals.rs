//! Every rule, with a text that breaks it and the message that says where and what would have been allowed.

use super::parse;

#[test]
fn every_refusal_names_the_place_and_what_is_allowed() {
    let table = include_str!("refusals.txt");
    for case in table.split("\n\n") {
        let lines = case.lines().filter(|line| !line.starts_with("# "));
        let (text, expected): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.starts_with("> "));
        if text.is_empty() {
            continue;
        }
        let text: String = text.iter().map(|line| format!("{}\n", &line[2..])).collect();
        let refused = parse(&text).expect_err(&text);
        let refused: Vec<&str> = refused.lines().map(|line| line.trim_start_matches("c.yaml:")).collect();
        assert_eq!(refused, expected, "{text}");
    }
}
