//! The public items of a crate, from its source.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use syn::{Attribute, Expr, ExprLit, ImplItem, Item, Lit, Meta, TraitItem, Type, UseTree, Visibility};

/// Something public, with its docs.
#[derive(Clone)]
pub(crate) struct Public {
    /// Without the crate's name; the crate itself is `crate`.
    pub(crate) path: String,
    pub(crate) name: String,
    pub(crate) docs: String,
    pub(crate) kind: Kind,
}

#[derive(Clone)]
pub(crate) enum Kind {
    Module,
    /// A type, a trait, a constant, a macro, a function of a module.
    Item,
    /// A function or constant of a type.
    Function {
        of: String,
    },
    /// The same with `self`.
    Method {
        of: String,
    },
}

struct Module {
    attributes: Vec<Attribute>,
    items: Vec<Item>,
    children: BTreeMap<String, Module>,
}

/// All public items of the crate of this name in this directory.
pub(crate) fn of(name: &str, directory: &Path) -> Vec<Public> {
    let source = directory.join("src");
    all(name, &Module::read(&source.join("lib.rs"), &source))
}

/// The same for a crate in one text.
pub(crate) fn of_text(source: &str) -> Vec<Public> {
    let file = syn::parse_file(source).unwrap();
    all("shop", &Module::of(file.attrs, file.items, Path::new("/nowhere")))
}

fn all(name: &str, root: &Module) -> Vec<Public> {
    let mut found = vec![Public {
        path: "crate".to_owned(),
        name: name.to_owned(),
        docs: docs(&root.attributes),
        kind: Kind::Module,
    }];
    root.public(root, "", &mut found);
    let types: Vec<Public> = found.iter().filter(|item| matches!(item.kind, Kind::Item)).cloned().collect();
    root.methods("", &types, &mut found);
    found
}

impl Module {
    /// `children`: where the files of its modules are.
    fn read(file: &Path, children: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Self::of(parsed.attrs, parsed.items, children)
    }

    fn of(attributes: Vec<Attribute>, items: Vec<Item>, at: &Path) -> Self {
        let mut module = Self { attributes, items: Vec::new(), children: BTreeMap::new() };
        for item in items {
            match item {
                Item::Mod(mut child) if !is(&child.attrs, "cfg", "test") => {
                    let name = child.ident.to_string();
                    let inner = match child.content.take() {
                        Some((_, items)) => Self::of(Vec::new(), items, &at.join(&name)),
                        None => Self::read(&file_of(at, &name), &at.join(&name)),
                    };
                    module.children.insert(name, inner);
                    module.items.push(Item::Mod(child));
                }
                // A macro's items, where they are written as items.
                Item::Macro(invocation) if invocation.ident.is_none() => {
                    let inner: syn::File = syn::parse2(invocation.mac.tokens)
                        .expect("a macro around items gets items, so that they can be read");
                    module.items.extend(inner.items);
                }
                other => module.items.push(other),
            }
        }
        module
    }

    fn public(&self, root: &Self, at: &str, found: &mut Vec<Public>) {
        for item in &self.items {
            let Some((name, attributes, is_public)) = head(item) else { continue };
            if !is_public || is(attributes, "doc", "hidden") {
                continue;
            }
            match item {
                Item::Use(reexport) => {
                    for (path, name) in leaves(&reexport.tree) {
                        let (module, item) = self
                            .resolve(root, &path)
                            .unwrap_or_else(|| panic!("`pub use {}` leads to none of ours", path.join("::")));
                        module.push(root, item, &name, at, found);
                    }
                }
                _ => self.push(root, item, &name, at, found),
            }
        }
    }

    /// One item of this module, under the name that it has in public.
    fn push(&self, root: &Self, item: &Item, name: &str, at: &str, found: &mut Vec<Public>) {
        let path = join(at, name);
        let (_, attributes, _) = head(item).unwrap();
        let mut public =
            Public { path: path.clone(), name: name.to_owned(), docs: docs(attributes), kind: Kind::Item };
        if let Item::Mod(module) = item {
            let inner = &self.children[&module.ident.to_string()];
            public.docs += &docs(&inner.attributes);
            public.kind = Kind::Module;
            found.push(public);
            return inner.public(root, &path, found);
        }
        found.push(public);
        let Item::Trait(item) = item else { return };
        for member in &item.items {
            if let TraitItem::Fn(function) = member
                && !is(&function.attrs, "doc", "hidden")
            {
                let of = item.ident.to_string();
                let name = function.sig.ident.to_string();
                found.push(member_of(&path, of, name, &function.attrs, function.sig.receiver().is_some()));
            }
        }
    }

    /// What a path of a `pub use` in this module stands for.
    fn resolve<'a>(&'a self, root: &'a Self, path: &[String]) -> Option<(&'a Self, &'a Item)> {
        let (first, rest) = path.split_first()?;
        if first == "crate" {
            return root.resolve(root, rest);
        }
        if first == "self" {
            return self.resolve(root, rest);
        }
        if !rest.is_empty() {
            return self.children.get(first)?.resolve(root, rest);
        }
        let is_named = |item: &&Item| head(item).is_some_and(|(name, ..)| name == *first);
        if let Some(item) = self.items.iter().find(is_named) {
            return Some((self, item));
        }
        let uses = self.items.iter().filter_map(|item| match item {
            Item::Use(reexport) => Some(leaves(&reexport.tree)),
            _ => None,
        });
        let (path, _) = uses.flatten().find(|(_, name)| name == first)?;
        self.resolve(root, &path)
    }

    /// The public functions and constants of these types, wherever they stand. `at`: this module's path.
    fn methods(&self, at: &str, types: &[Public], found: &mut Vec<Public>) {
        let near =
            |item: &&Public| item.path.split("::").zip(at.split("::")).take_while(|(a, b)| a == b).count();
        for item in &self.items {
            let Item::Impl(block) = item else { continue };
            let Type::Path(of) = &*block.self_ty else { continue };
            let of = of.path.segments.last().unwrap().ident.to_string();
            // Of several with this name it is the nearest.
            let named = types.iter().filter(|item| item.name == of);
            let Some(owner) = named.max_by_key(near) else { continue };
            if block.trait_.is_some() {
                continue;
            }
            for member in &block.items {
                let (name, attributes, visibility, is_method) = match member {
                    ImplItem::Fn(function) => {
                        let signature = &function.sig;
                        (&signature.ident, &function.attrs, &function.vis, signature.receiver().is_some())
                    }
                    ImplItem::Const(constant) => (&constant.ident, &constant.attrs, &constant.vis, false),
                    _ => continue,
                };
                if matches!(visibility, Visibility::Public(_)) && !is(attributes, "doc", "hidden") {
                    found.push(member_of(&owner.path, of.clone(), name.to_string(), attributes, is_method));
                }
            }
        }
        for (name, child) in &self.children {
            child.methods(&join(at, name), types, found);
        }
    }
}

fn join(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}::{name}") }
}

fn member_of(path: &str, of: String, name: String, attributes: &[Attribute], is_method: bool) -> Public {
    let kind = match is_method {
        true => Kind::Method { of },
        false => Kind::Function { of },
    };
    Public { path: format!("{path}::{name}"), name, docs: docs(attributes), kind }
}

fn file_of(at: &Path, name: &str) -> PathBuf {
    let own = at.join(format!("{name}.rs"));
    if own.exists() { own } else { at.join(name).join("mod.rs") }
}

/// Name, attributes and whether it is public, of what can be.
fn head(item: &Item) -> Option<(String, &[Attribute], bool)> {
    let (name, attributes, visibility) = match item {
        Item::Const(i) => (&i.ident, &i.attrs, &i.vis),
        Item::Enum(i) => (&i.ident, &i.attrs, &i.vis),
        Item::Fn(i) => (&i.sig.ident, &i.attrs, &i.vis),
        Item::Mod(i) => (&i.ident, &i.attrs, &i.vis),
        Item::Static(i) => (&i.ident, &i.attrs, &i.vis),
        Item::Struct(i) => (&i.ident, &i.attrs, &i.vis),
        Item::Trait(i) => (&i.ident, &i.attrs, &i.vis),
        Item::Type(i) => (&i.ident, &i.attrs, &i.vis),
        Item::Union(i) => (&i.ident, &i.attrs, &i.vis),
        Item::Macro(i) => {
            return Some((i.ident.as_ref()?.to_string(), &i.attrs, is(&i.attrs, "macro_export", "")));
        }
        // Its names are those of what it leads to.
        Item::Use(i) => return Some((String::new(), &i.attrs, matches!(i.vis, Visibility::Public(_)))),
        _ => return None,
    };
    Some((name.to_string(), attributes, matches!(visibility, Visibility::Public(_))))
}

/// The paths that a `use` names, and as what.
fn leaves(tree: &UseTree) -> Vec<(Vec<String>, String)> {
    match tree {
        UseTree::Name(name) => vec![(vec![name.ident.to_string()], name.ident.to_string())],
        UseTree::Rename(rename) => vec![(vec![rename.ident.to_string()], rename.rename.to_string())],
        UseTree::Path(path) => {
            let mut inner = leaves(&path.tree);
            inner.iter_mut().for_each(|(inner, _)| inner.insert(0, path.ident.to_string()));
            inner
        }
        UseTree::Group(group) => group.items.iter().flat_map(leaves).collect(),
        // Leads to nothing, so that a public one is noticed.
        UseTree::Glob(_) => vec![(vec!["*".to_owned()], "*".to_owned())],
    }
}

/// Whether there is an attribute like `#[doc(hidden)]`.
fn is(attributes: &[Attribute], name: &str, argument: &str) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => list.path.is_ident(name) && list.tokens.to_string() == argument,
        Meta::Path(path) => path.is_ident(name) && argument.is_empty(),
        Meta::NameValue(_) => false,
    })
}

fn docs(attributes: &[Attribute]) -> String {
    let line = |attribute: &Attribute| match &attribute.meta {
        Meta::NameValue(doc) if doc.path.is_ident("doc") => match &doc.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value() + "\n"),
            _ => None,
        },
        _ => None,
    };
    attributes.iter().filter_map(line).collect()
}
