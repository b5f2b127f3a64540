//! `mappings[].keys`: what is removed.

use std::ops::Range;

use rowbust_protocol::template::{ImageRef, Template};

use super::{
    ALARM_ABOVE, Events, KeyOp, KeyRule, Mapping,
    codes::Code,
    diag, fields,
    node::{Node, Value},
    walk::{Object, Walk, first_line},
};

/// What an entry of `keys` may be, and the fields that belong to it alone.
const KINDS: [(&str, &[&str]); 3] =
    [("key", &["op", "field"]), ("prefix", &["alarm_above"]), ("members_of", &["members_prefix"])];

impl Walk<'_> {
    pub(super) fn keys(&mut self, node: &Node) -> Option<Vec<KeyRule>> {
        let items = self.list(node, "`keys`", "[\"product:{id}\"]")?;
        let keys: Vec<_> = items.iter().map(|item| self.key_rule(item)).collect();
        let keys: Vec<KeyRule> = keys.into_iter().collect::<Option<_>>()?;
        for (rule, item) in keys.iter().zip(items) {
            self.set_is_alone(rule, keys.iter(), |text| first_line(text, &item.span));
        }
        Some(keys)
    }

    /// Mappings of one target that remove the sets of another.
    pub(super) fn sets_are_alone(&mut self, mappings: &[Mapping]) {
        for (at, mapping) in mappings.iter().enumerate() {
            for rule in &mapping.keys {
                let others = mappings.iter().enumerate().filter(|(other, _)| *other != at);
                let others = others.filter(|(_, other)| other.target == mapping.target);
                let others = others.flat_map(|(_, other)| &other.keys);
                self.set_is_alone(rule, others, |text| diag::entry(text, rule.line));
            }
        }
    }

    /// `at`: its place in the text.
    fn set_is_alone<'r>(
        &mut self,
        set: &KeyRule,
        mut others: impl Iterator<Item = &'r KeyRule>,
        at: impl FnOnce(&str) -> Range<usize>,
    ) {
        if !matches!(set.op, KeyOp::MembersOf { .. }) {
            return;
        }
        let sample = set.key.sample();
        let Some(other) = others.find(|other| forgets(set, &sample, other)) else { return };
        let message = format!(
            "the set `{}` is removed by `{}` (line {}) too, before its members are known",
            set.key.source(),
            other.key.source(),
            other.line
        );
        let help = "keep `members_of` alone: a set without members is gone";
        let at = at(self.text);
        self.report(Code::Conflict, at, message, help);
    }

    fn key_rule(&mut self, node: &Node) -> Option<KeyRule> {
        let (line, _) = diag::position(self.text, node.span.start);
        let template_by_mistake = matches!(&node.value, Value::Map(e) if !e.is_empty() && e.iter().all(|(_, v)| matches!(v.value, Value::Null)));
        if !matches!(node.value, Value::Map(_)) || template_by_mistake {
            let key = self.template(node)?;
            return Some(KeyRule { key, op: KeyOp::Unlink, events: Events::ALL, line });
        }
        let object = self.object(node, first_line(self.text, &node.span), &fields::KEY)?;
        let Some(kind) = self.kind(&object) else {
            // What else is wrong with it is said all the same.
            if let Some(node) = object.get("events") {
                self.events(node);
            }
            return None;
        };
        let key = object.get(kind).and_then(|n| self.template(n));
        let op = match kind {
            "prefix" => self.prefix(&object, key.as_ref()),
            "members_of" => self.members_of(&object),
            _ => self.exact(&object),
        };
        let events = match object.get("events") {
            Some(node) => self.events(node),
            None => Some(Events::ALL),
        };
        let (key, op, events) = (key?, op?, events?);
        let field = match &op {
            KeyOp::Hdel { field } => Some(field),
            _ => None,
        };
        let uses = |image| key.uses(image) || field.is_some_and(|f| f.uses(image));
        // An insert has no row before it, and a delete none after it: `{old.x}` and `{new.x}` make no key then.
        let never = (uses(ImageRef::Old) && !events.update && !events.delete)
            || (uses(ImageRef::New) && !events.update && !events.insert);
        if never {
            let help =
                "inserts have no `old` row and deletes no `new` one: add `update`, or write the bare column";
            self.report(Code::Conflict, object.key_span("events"), "no change makes this key", help);
            return None;
        }
        Some(KeyRule { key, op, events, line })
    }

    /// Which of [`KINDS`] it is.
    fn kind(&mut self, object: &Object<'_>) -> Option<&'static str> {
        let mut found = KINDS.iter().filter(|(kind, _)| object.get(kind).is_some());
        let Some((kind, own)) = found.next() else {
            let help = "write `key: \"product:{id}\"`, `prefix: …` or `members_of: …`";
            let message = "this entry of `keys` has no `key`";
            self.report(Code::MissingField, object.span.clone(), message, help);
            return None;
        };
        let mut ok = true;
        for (other, _) in found {
            let message = format!("`{kind}` and `{other}` can't stand in one entry");
            self.report(Code::Conflict, object.key_span(other), message, "make two entries of `keys`");
            ok = false;
        }
        let others = KINDS.iter().flat_map(|(kind, fields)| fields.iter().map(move |field| (*kind, *field)));
        for (of, field) in others {
            if !own.contains(&field) && object.get(field).is_some() && object.get(of).is_none() {
                let message = format!("`{field}` has no effect with `{kind}`");
                let help = format!("remove it; it belongs to `{of}`");
                self.report(Code::Conflict, object.key_span(field), message, help);
                ok = false;
            }
        }
        ok.then_some(*kind)
    }

    fn exact(&mut self, object: &Object<'_>) -> Option<KeyOp> {
        let hdel = match object.get("op") {
            Some(node) => {
                let ops = vec![("unlink", false), ("hdel", true)];
                self.choice(node, "op", ops)
            }
            None => Some(false),
        };
        match (hdel?, object.get("field").map(|n| self.template(n))) {
            (false, None) => Some(KeyOp::Unlink),
            (true, Some(field)) => Some(KeyOp::Hdel { field: field? }),
            (true, None) => {
                let help = "write `field: \"{id}\"`";
                self.report(Code::MissingField, object.key_span("op"), "`op: hdel` needs a `field`", help);
                None
            }
            (false, Some(_)) => {
                let help = "write `op: hdel`, or remove `field`";
                let message = "`field` has no effect without `op: hdel`";
                self.report(Code::Conflict, object.key_span("field"), message, help);
                None
            }
        }
    }

    fn prefix(&mut self, object: &Object<'_>, template: Option<&Template>) -> Option<KeyOp> {
        let alarm_above = match object.get("alarm_above") {
            Some(node) => self.number(node, "number of keys", 1..=u64::MAX),
            None => Some(ALARM_ABOVE),
        };
        if let Some(template) = template.filter(|template| template.literal_prefix().is_empty()) {
            let at =
                object.get("prefix").map_or(object.span.clone(), |node| first_line(self.text, &node.span));
            let message = format!("`{}` begins with a column: any key may begin so", template.source());
            let help = "begin the prefix with a text of its own, e.g. \"feed:{category_id}:\"";
            self.report(Code::BadTemplate, at, message, help);
            return None;
        }
        Some(KeyOp::Prefix { alarm_above: alarm_above? })
    }

    fn members_of(&mut self, object: &Object<'_>) -> Option<KeyOp> {
        let Some(node) = object.get("members_prefix") else {
            return Some(KeyOp::MembersOf { members_prefix: Vec::new() });
        };
        let items = match &node.value {
            Value::Seq(_) => self.list(node, "`members_prefix`", "[\"product:\", \"page:\"]")?,
            _ => std::slice::from_ref(node),
        };
        let mut texts = Vec::new();
        for item in items {
            let text = self.quoted_text(item, "a text that members begin with")?;
            // It is no template: what looks like one would match no member.
            let wrong: Option<Range<usize>> =
                (text.value.is_empty() || text.value.contains(['{', '}'])).then(|| item.span.clone());
            if let Some(span) = wrong {
                let message = format!("`{}` is no literal beginning of a key", self.shown(&span));
                let help = "write the text that all members begin with, without columns, e.g. \"product:\"";
                self.report(Code::BadName, span, message, help);
                return None;
            }
            texts.push(text.value);
        }
        Some(KeyOp::MembersOf { members_prefix: texts })
    }

    fn template(&mut self, node: &Node) -> Option<Template> {
        let text = self.quoted_text(node, "a key template")?;
        match Template::parse(&text.value) {
            Ok(template) => Some(template),
            Err(e) => {
                let span = self.offset_in(&text, e.offset);
                self.report(Code::BadTemplate, span, e.to_string(), e.help);
                None
            }
        }
    }

    fn events(&mut self, node: &Node) -> Option<Events> {
        let mut events = Events { insert: false, update: false, delete: false };
        let mut ok = true;
        for item in self.list(node, "`events`", "[update, delete]")? {
            let kinds = vec![("insert", 0), ("update", 1), ("delete", 2)];
            match self.choice(item, "kind of change", kinds) {
                Some(0) => events.insert = true,
                Some(1) => events.update = true,
                Some(_) => events.delete = true,
                None => ok = false,
            }
        }
        ok.then_some(events)
    }
}

/// Whether `other` removes the keys of a set, of which `sample` is one, and with them the names of its members. A key that begins with a column could be any, and
/// is taken for one of its own.
fn forgets(set: &KeyRule, sample: &[u8], other: &KeyRule) -> bool {
    let is_bound = !other.key.literal_prefix().is_empty();
    match other.op {
        KeyOp::Unlink => other.key == set.key || is_bound && other.key.could_make(sample),
        KeyOp::Prefix { .. } => other.key == set.key || is_bound && other.key.could_begin(sample),
        KeyOp::Hdel { .. } | KeyOp::MembersOf { .. } => false,
    }
}
