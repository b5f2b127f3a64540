//! The examples in an item's docs, and what they use.

use std::collections::HashSet;

use syn::{
    Block, Expr, ExprMethodCall, ImplItemFn, ItemImpl, Macro, Token, UseTree,
    parse::Parser as _,
    punctuated::Punctuated,
    visit::{self, Visit},
};

use crate::{Kind, Public};

/// What one example uses. Comments and strings are no uses.
#[derive(Default)]
pub(crate) struct Example {
    paths: Vec<Vec<String>>,
    /// Called with a dot.
    methods: HashSet<String>,
    /// Written for a trait.
    implemented: HashSet<String>,
    imported: HashSet<String>,
    /// Words that readers see.
    shown: HashSet<String>,
    is_in_trait: bool,
}

impl Example {
    /// # Errors
    /// When one isn't compiled, or can't be read.
    pub(crate) fn all_in(docs: &str) -> Result<Vec<Self>, String> {
        let (mut examples, mut lines) = (Vec::new(), docs.lines());
        while let Some(line) = lines.next() {
            let Some(tags) = line.trim_start().strip_prefix("```") else { continue };
            let code = lines.by_ref().take_while(|line| !line.trim_start().starts_with("```"));
            let code: Vec<&str> = code.collect();
            let tags: Vec<&str> = tags.split(',').map(str::trim).filter(|tag| !tag.is_empty()).collect();
            if tags.iter().any(|tag| tag.starts_with("ignore") || *tag == "compile_fail") {
                return Err("its example isn't compiled".to_owned());
            }
            if tags.iter().all(|tag| ["rust", "no_run", "should_panic"].contains(tag)) {
                examples
                    .push(Self::read(&code).map_err(|error| format!("its example can't be read: {error}"))?);
            }
        }
        Ok(examples)
    }

    fn read(lines: &[&str]) -> syn::Result<Self> {
        let code: String = lines.iter().map(|line| format!("{}\n", hidden(line).unwrap_or(line))).collect();
        let block: Block = syn::parse_str(&format!("{{\n{code}}}"))?;
        let mut example = Self::default();
        example.visit_block(&block);
        for line in lines.iter().filter(|line| hidden(line).is_none()) {
            let code = line.split_once("//").map_or(*line, |(code, _)| code);
            example.shown.extend(code.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned));
        }
        Ok(example)
    }

    /// Whether it does where readers can see it.
    pub(crate) fn uses(&self, item: &Public) -> bool {
        self.shown.contains(&item.name) && self.calls(item)
    }

    fn calls(&self, item: &Public) -> bool {
        let ends_with = |owner: &str| {
            self.paths.iter().any(|path| matches!(&path[..], [.., o, n] if o == owner && *n == item.name))
        };
        match &item.kind {
            Kind::Module => {
                self.imported.contains(&item.name) || self.paths.iter().any(|path| path.contains(&item.name))
            }
            Kind::Item => self.paths.iter().any(|path| path.contains(&item.name)),
            Kind::Function { of } => ends_with(of),
            Kind::Method { of } => {
                ends_with(of) || self.methods.contains(&item.name) || self.implemented.contains(&item.name)
            }
        }
    }
}

/// The code of a line that is compiled and not shown.
fn hidden(line: &str) -> Option<&str> {
    let code = line.trim();
    code.strip_prefix("# ").or((code == "#").then_some(""))
}

impl<'ast> Visit<'ast> for Example {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.paths.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        self.methods.insert(call.method.to_string());
        visit::visit_expr_method_call(self, call);
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        self.is_in_trait = item.trait_.is_some();
        visit::visit_item_impl(self, item);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        if self.is_in_trait {
            self.implemented.insert(function.sig.ident.to_string());
        }
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_use_tree(&mut self, tree: &'ast UseTree) {
        match tree {
            UseTree::Path(path) => self.imported.insert(path.ident.to_string()),
            UseTree::Name(name) => self.imported.insert(name.ident.to_string()),
            UseTree::Rename(rename) => self.imported.insert(rename.ident.to_string()),
            UseTree::Glob(_) | UseTree::Group(_) => true,
        };
        visit::visit_use_tree(self, tree);
    }

    fn visit_macro(&mut self, invocation: &'ast Macro) {
        // `assert_eq!`, `println!` and their like: arguments that are expressions.
        if let Ok(arguments) =
            Punctuated::<Expr, Token![,]>::parse_terminated.parse2(invocation.tokens.clone())
        {
            arguments.iter().for_each(|argument| self.add(argument));
        }
    }
}

impl Example {
    /// What an expression uses that doesn't live as long as the example's code.
    fn add(&mut self, argument: &Expr) {
        let mut inner = Self::default();
        inner.visit_expr(argument);
        self.paths.append(&mut inner.paths);
        self.methods.extend(inner.methods);
        self.implemented.extend(inner.implemented);
        self.imported.extend(inner.imported);
    }
}
