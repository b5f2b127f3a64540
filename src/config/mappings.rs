//! `mappings`: tables, conditions, keys.

use std::{ops::Range, time::Duration};

use globset::{GlobBuilder, GlobMatcher};
use rowbust_protocol::template::{ImageRef, Template};

use super::{
    DdlPolicy, Events, Image, KeyOp, KeyRule, Mapping, OnDdl, Policies, Policy, RedisTarget, SecondRemoval,
    When,
    codes::Code,
    diag, fields,
    node::{Node, Value},
    walk::{Choice, Object, Walk, first_line, nearest},
};

/// More entries than any table set needs; bounds the work on absurd input.
const MAX_GLOB: usize = 256;

impl Walk<'_> {
    /// `targets` is `None` when `redis` itself is wrong: then `to` can't be checked.
    /// `policies`: those of the source.
    pub(super) fn mappings(
        &mut self,
        node: &Node,
        targets: Option<&[RedisTarget]>,
        policies: Policies,
    ) -> Option<Vec<Mapping>> {
        let items = self.list(node, "`mappings`", "- { table: shop.products, keys: [\"product:{id}\"] }")?;
        let mappings: Vec<_> = items.iter().map(|item| self.mapping(item, targets, policies)).collect();
        mappings.into_iter().collect()
    }

    fn mapping(
        &mut self,
        node: &Node,
        targets: Option<&[RedisTarget]>,
        policies: Policies,
    ) -> Option<Mapping> {
        let object = self.object(node, first_line(self.text, &node.span), &fields::MAPPING)?;
        let table = object.get("table").and_then(|n| self.table(n));
        let when_changed = match object.get("when_changed") {
            Some(node) => self.columns(node).map(Some),
            None => Some(None),
        };
        let when = match object.get("when") {
            Some(node) => self.when(node, object.key_span("when")).map(Some),
            None => Some(None),
        };
        let keys = object.get("keys").and_then(|n| self.keys(n));
        let second_removal = match object.get("second_removal") {
            Some(node) => self.second_removal(node, object.key_span("second_removal")),
            None => Some(SecondRemoval::WhenVisible),
        };
        let fill_grace = match object.get("fill_grace") {
            Some(node) => self.duration(node, "`fill_grace`", Duration::ZERO, Duration::from_secs(600)),
            None => Some(Duration::from_secs(1)),
        };
        if object.get("fill_grace").is_some()
            && !matches!(second_removal, None | Some(SecondRemoval::WhenVisible))
        {
            let span = object.key_span("fill_grace");
            let help = "remove it, or write `second_removal: when_visible`";
            self.report(Code::Conflict, span, "`fill_grace` has no effect with this `second_removal`", help);
        }
        let on_ddl = match object.get("on_ddl") {
            Some(node) => self.on_ddl(node, object.key_span("on_ddl")),
            None => Some(OnDdl::default()),
        };
        let on_schema = self.policy(&object, "on_schema");
        let asked = [
            ("source.on_gap", policies.on_gap == Policy::Flush),
            ("source.on_undecodable", policies.on_undecodable == Policy::Flush),
            ("source.on_statement", policies.on_statement == Policy::Flush),
            ("on_schema", on_schema == Some(Policy::Flush)),
            // Not by default: a mapping that says nothing halts when it comes to that.
            ("on_ddl", object.get("on_ddl").is_some() && on_ddl.is_some_and(OnDdl::flushes)),
        ];
        if let (Some(node), Some(keys)) = (object.get("keys"), &keys)
            && let Some((name, _)) = asked.iter().find(|(_, flushes)| *flushes)
            && let Some(rule) = keys.iter().find(|rule| rule.key.literal_prefix().is_empty())
        {
            let message = format!(
                "`{}` begins with a column and may be any key: `{name}: flush` would empty the database",
                rule.key.source()
            );
            let help = "begin the key with a text of its own, e.g. \"product:{id}\", or write `halt`";
            self.report(Code::Conflict, first_line(self.text, &node.span), message, help);
        }
        let target = targets.and_then(|targets| self.to(&object, targets));
        let (line, _) = diag::position(self.text, object.key_span("table").start);
        let (table, schema_glob, table_glob) = table?;
        Some(Mapping {
            table,
            schema_glob,
            table_glob,
            when_changed: when_changed?,
            when: when?,
            keys: keys?,
            second_removal: second_removal?,
            fill_grace: fill_grace?,
            on_ddl: on_ddl?,
            on_schema: on_schema?,
            target: target?,
            line,
        })
    }

    fn on_ddl(&mut self, node: &Node, at: Range<usize>) -> Option<OnDdl> {
        let object = self.object(node, at, &fields::ON_DDL)?;
        let default = OnDdl::default();
        let truncate = self.ddl_policy(&object, "truncate", default.truncate);
        let drop = self.ddl_policy(&object, "drop", default.drop);
        let rename = self.ddl_policy(&object, "rename", default.rename);
        Some(OnDdl { truncate: truncate?, drop: drop?, rename: rename? })
    }

    fn ddl_policy(
        &mut self,
        object: &Object<'_>,
        name: &'static str,
        default: DdlPolicy,
    ) -> Option<DdlPolicy> {
        let Some(node) = object.get(name) else { return Some(default) };
        let words = vec![
            ("keep", Choice::Built(DdlPolicy::Keep)),
            ("flush", Choice::Built(DdlPolicy::Flush)),
            ("halt", Choice::Built(DdlPolicy::Halt)),
        ];
        self.choice(node, name, words)
    }

    fn table(&mut self, node: &Node) -> Option<(String, GlobMatcher, GlobMatcher)> {
        let text = self.text(node, "`schema.table`")?;
        let parts: Vec<&str> = text.value.split('.').collect();
        let [schema, table] = parts[..] else {
            let message = format!("`{}` is no `schema.table`", self.shown(&node.span));
            let help =
                "write schema and table with one dot between them, e.g. shop.products or \"shop_*.products\"";
            self.report(Code::BadTable, node.span.clone(), message, help);
            return None;
        };
        let schema_glob = self.glob(node, schema)?;
        let table_glob = self.glob(node, table)?;
        Some((text.value.clone(), schema_glob, table_glob))
    }

    fn glob(&mut self, node: &Node, part: &str) -> Option<GlobMatcher> {
        let wrong = if part.is_empty() {
            Some("schema and table can't be empty".to_owned())
        } else if part.len() > MAX_GLOB {
            Some(format!("a name is at most {MAX_GLOB} bytes"))
        } else if part.contains('`') || part.chars().any(char::is_control) {
            Some("names stand here without backticks".to_owned())
        } else {
            match GlobBuilder::new(part).backslash_escape(false).build() {
                Ok(glob) => return Some(glob.compile_matcher()),
                Err(e) => Some(format!("not a glob: {}", e.kind())),
            }
        };
        let help = "globs: `*` any text, `?` one character, `[ab]` one of these; a literal `*` is `[*]`";
        self.report(Code::BadTable, node.span.clone(), wrong.unwrap_or_default(), help);
        None
    }

    fn columns(&mut self, node: &Node) -> Option<Vec<String>> {
        let items = self.list(node, "`when_changed`", "[name, price]")?;
        let columns: Vec<_> = items.iter().map(|item| self.column(item)).collect();
        columns.into_iter().collect()
    }

    fn column(&mut self, node: &Node) -> Option<String> {
        let text = self.quoted_text(node, "the name of a column")?;
        if text.value.is_empty() || text.value.contains(['`', '{', '}']) {
            let message = format!("`{}` is no name of a column", self.shown(&node.span));
            self.report(
                Code::BadName,
                node.span.clone(),
                message,
                "write the bare name, without backticks or braces",
            );
            return None;
        }
        Some(text.value)
    }

    fn when(&mut self, node: &Node, at: Range<usize>) -> Option<When> {
        let object = self.object(node, at, &fields::WHEN)?;
        let column = object.get("column").and_then(|n| self.column(n));
        let any_of = object.get("in").and_then(|node| {
            let items = self.list(node, "`in`", "[active, banned]")?;
            let texts: Vec<_> =
                items.iter().map(|n| self.quoted_text(n, "a text").map(|t| t.value)).collect();
            texts.into_iter().collect::<Option<Vec<_>>>()
        });
        let image = match object.get("image") {
            Some(node) => {
                let images = vec![
                    ("before", Choice::Built(Image::Before)),
                    ("after", Choice::Built(Image::After)),
                    ("any", Choice::Built(Image::Any)),
                ];
                self.choice(node, "image", images)
            }
            None => Some(Image::Any),
        };
        Some(When { column: column?, any_of: any_of?, image: image? })
    }

    fn keys(&mut self, node: &Node) -> Option<Vec<KeyRule>> {
        let items = self.list(node, "`keys`", "[\"product:{id}\"]")?;
        let keys: Vec<_> = items.iter().map(|item| self.key_rule(item)).collect();
        keys.into_iter().collect()
    }

    fn key_rule(&mut self, node: &Node) -> Option<KeyRule> {
        let (line, _) = diag::position(self.text, node.span.start);
        let template_by_mistake = matches!(&node.value, Value::Map(e) if !e.is_empty() && e.iter().all(|(_, v)| matches!(v.value, Value::Null)));
        if !matches!(node.value, Value::Map(_)) || template_by_mistake {
            let key = self.template(node)?;
            return Some(KeyRule { key, op: KeyOp::Unlink, events: Events::ALL, line });
        }
        let object = self.object(node, first_line(self.text, &node.span), &fields::KEY)?;
        let later = object.get("prefix").or(object.get("members_of")).is_some();
        if object.get("key").is_none() && !later {
            let help = "write `key: \"product:{id}\"`";
            self.report(Code::MissingField, object.span.clone(), "this entry of `keys` has no `key`", help);
        }
        let key = object.get("key").and_then(|n| self.template(n));
        let hdel = match object.get("op") {
            Some(node) => {
                let ops = vec![("unlink", Choice::Built(false)), ("hdel", Choice::Built(true))];
                self.choice(node, "op", ops)
            }
            None => Some(false),
        };
        let field = object.get("field").map(|n| self.template(n));
        let events = match object.get("events") {
            Some(node) => self.events(node),
            None => Some(Events::ALL),
        };
        let op = match (hdel?, field) {
            (false, None) => KeyOp::Unlink,
            (true, Some(field)) => KeyOp::Hdel { field: field? },
            (true, None) => {
                let help = "write `field: \"{id}\"`";
                self.report(Code::MissingField, object.key_span("op"), "`op: hdel` needs a `field`", help);
                return None;
            }
            (false, Some(_)) => {
                let help = "write `op: hdel`, or remove `field`";
                self.report(
                    Code::Conflict,
                    object.key_span("field"),
                    "`field` has no effect without `op: hdel`",
                    help,
                );
                return None;
            }
        };
        let (key, events) = (key?, events?);
        let field = match &op {
            KeyOp::Unlink => None,
            KeyOp::Hdel { field } => Some(field),
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
            let kinds = vec![
                ("insert", Choice::Built(0)),
                ("update", Choice::Built(1)),
                ("delete", Choice::Built(2)),
            ];
            match self.choice(item, "kind of change", kinds) {
                Some(0) => events.insert = true,
                Some(1) => events.update = true,
                Some(_) => events.delete = true,
                None => ok = false,
            }
        }
        ok.then_some(events)
    }

    fn second_removal(&mut self, node: &Node, at: Range<usize>) -> Option<SecondRemoval> {
        if !matches!(node.value, Value::Map(_)) {
            let words = vec![
                ("when_visible", Choice::Built(SecondRemoval::WhenVisible)),
                ("never", Choice::Built(SecondRemoval::Never)),
            ];
            return self.choice(node, "second_removal", words);
        }
        let object = self.object(node, at, &fields::SECOND_REMOVAL)?;
        let after = object.get("after")?;
        // All that is read meanwhile is held in memory.
        let longest = Duration::from_secs(600);
        self.duration(after, "`after`", Duration::ZERO, longest).map(SecondRemoval::After)
    }

    fn to(&mut self, object: &Object<'_>, targets: &[RedisTarget]) -> Option<usize> {
        let names = || targets.iter().map(|t| t.name.as_str());
        let list = names().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        let Some(node) = object.get("to") else {
            if targets.len() > 1 {
                let help = format!("add `to`, one of {list}");
                let message = "`to` is missing: there are several targets";
                self.report(Code::MissingField, object.key_span("table"), message, help);
                return None;
            }
            return Some(0);
        };
        let text = self.text(node, "the name of a target")?;
        let found = names().position(|n| n == text.value);
        if found.is_none() {
            let near =
                nearest(&text.value, names()).map_or(String::new(), |n| format!("did you mean `{n}`? "));
            let message = format!("`redis` has no target `{}`", self.shown(&node.span));
            self.report(Code::UnknownTarget, node.span.clone(), message, format!("{near}targets: {list}"));
        }
        found
    }
}
