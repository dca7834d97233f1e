//! Rules of policy routing, of which the guest's agent can set none.

use std::fmt::Write as _;

use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

/// The rules that every namespace has (`fib_default_rules_init` and its like of IPv6 in the kernel): priority and table.
const USUAL: [(u32, u32); 3] = [(0, 255), (32_766, 254), (32_767, 253)];

/// A rule that somebody set, as `ip rule` would print it; none for those that are always there.
pub(super) fn configured(rule: &RuleMessage) -> Option<String> {
    let (mut priority, mut table) = (0, u32::from(rule.header.table));
    let mut words = String::new();
    for attribute in &rule.attributes {
        let _ = match attribute {
            RuleAttribute::Priority(number) => {
                priority = *number;
                Ok(())
            }
            RuleAttribute::Table(number) => {
                table = *number;
                Ok(())
            }
            RuleAttribute::Source(ip) => write!(words, " from {ip}/{}", rule.header.src_len),
            RuleAttribute::Destination(ip) => write!(words, " to {ip}/{}", rule.header.dst_len),
            RuleAttribute::FwMark(mark) => write!(words, " fwmark {mark:#x}"),
            RuleAttribute::Iifname(name) => write!(words, " iif {name}"),
            RuleAttribute::Oifname(name) => write!(words, " oif {name}"),
            // Said of every rule, and of one without a limit.
            RuleAttribute::Protocol(_) | RuleAttribute::FwMask(_) => Ok(()),
            RuleAttribute::SuppressPrefixLen(u32::MAX) | RuleAttribute::SuppressIfGroup(u32::MAX) => Ok(()),
            _ => write!(words, " with a condition"),
        };
    }
    let is_usual = rule.header.action == RuleAction::ToTable && words.is_empty();
    if is_usual && USUAL.contains(&(priority, table)) {
        return None;
    }
    let end = match rule.header.action {
        RuleAction::ToTable => format!("lookup {table}"),
        other => format!("{other:?}").to_lowercase(),
    };
    Some(format!("rule {priority}:{words} {end}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(action: RuleAction, table: u8, attributes: Vec<RuleAttribute>) -> RuleMessage {
        let mut rule = RuleMessage::default();
        rule.header.action = action;
        rule.header.table = table;
        rule.header.src_len = 24;
        rule.attributes = attributes;
        rule
    }

    #[test]
    fn what_every_namespace_has_is_not_told() {
        let usual = |table, priority| {
            let attributes = vec![
                RuleAttribute::Table(table),
                RuleAttribute::SuppressPrefixLen(u32::MAX),
                RuleAttribute::Priority(priority),
            ];
            configured(&rule(RuleAction::ToTable, u8::try_from(table).unwrap(), attributes))
        };
        assert_eq!((usual(255, 0), usual(254, 32_766), usual(253, 32_767)), (None, None, None));
        assert_eq!(usual(100, 32_766).as_deref(), Some("rule 32766: lookup 100"));
    }

    #[test]
    fn a_rule_is_told_in_one_line() {
        let from = RuleAttribute::Source("10.1.0.0".parse().unwrap());
        let attributes = vec![from, RuleAttribute::Table(1000), RuleAttribute::Priority(5)];
        let told = configured(&rule(RuleAction::ToTable, 252, attributes));
        assert_eq!(told.as_deref(), Some("rule 5: from 10.1.0.0/24 lookup 1000"));
        let mark = vec![RuleAttribute::FwMark(16), RuleAttribute::Priority(7)];
        let told = configured(&rule(RuleAction::Prohibit, 0, mark));
        assert_eq!(told.as_deref(), Some("rule 7: fwmark 0x10 prohibit"));
    }
}
