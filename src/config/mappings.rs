//! `mappings`: tables, conditions, when the second removal runs. What is removed: `keys`.

use std::{ops::Range, time::Duration};

use globset::{GlobBuilder, GlobMatcher};

use super::{
    DdlPolicy, Image, KeyOp, Mapping, OnDdl, Policies, Policy, RedisTarget, SecondRemoval, When,
    codes::Code,
    diag, fields,
    node::{Node, Value},
    walk::{Object, Walk, first_line, nearest},
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
        let guarded = match object.get("guarded") {
            Some(node) => {
                let words = vec![("true", true), ("false", false)];
                self.choice(node, "guarded", words)
            }
            None => Some(false),
        };
        if guarded == Some(true) {
            self.guarded(&object, second_removal, keys.as_deref());
        }
        let keys_per_second = match object.get("keys_per_second") {
            Some(node) => self.number(node, "number of keys per second", 0..=1_000_000_000),
            None => Some(0),
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
            fill_grace: if guarded? { Duration::ZERO } else { fill_grace? },
            guarded: guarded?,
            keys_per_second: keys_per_second?,
            on_ddl: on_ddl?,
            on_schema: on_schema?,
            target: target?,
            line,
        })
    }

    /// What contradicts `guarded: true`.
    fn guarded(
        &mut self,
        object: &Object<'_>,
        second_removal: Option<SecondRemoval>,
        keys: Option<&[super::KeyRule]>,
    ) {
        let at = object.key_span("guarded");
        if object.get("fill_grace").is_some() {
            let message = "`fill_grace` has no effect with `guarded: true`";
            let help = "remove it: fills under leases need no grace";
            self.report(Code::Conflict, object.key_span("fill_grace"), message, help);
        }
        if !matches!(second_removal, None | Some(SecondRemoval::WhenVisible)) {
            let message =
                "`guarded: true` needs the second removal when the commit is visible: it revokes the leases";
            let help = "remove `second_removal`, or `guarded`";
            self.report(Code::Conflict, at.clone(), message, help);
        }
        if keys.is_some_and(|keys| keys.iter().any(|rule| matches!(rule.op, KeyOp::Hdel { .. }))) {
            let message = "fields of a hash can't be guarded: a lease stands in place of a whole value";
            let help = "write the `hdel` in a mapping of its own, without `guarded`";
            self.report(Code::Conflict, at, message, help);
        }
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
        let words = vec![("keep", DdlPolicy::Keep), ("flush", DdlPolicy::Flush), ("halt", DdlPolicy::Halt)];
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
                let images = vec![("before", Image::Before), ("after", Image::After), ("any", Image::Any)];
                self.choice(node, "image", images)
            }
            None => Some(Image::Any),
        };
        Some(When { column: column?, any_of: any_of?, image: image? })
    }

    fn second_removal(&mut self, node: &Node, at: Range<usize>) -> Option<SecondRemoval> {
        if !matches!(node.value, Value::Map(_)) {
            let words = vec![("when_visible", SecondRemoval::WhenVisible), ("never", SecondRemoval::Never)];
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
