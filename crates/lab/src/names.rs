//! Enums whose variants have a name on the command line and a line about them, both written at the variant. Depends on nothing.

/// Gives the enum a private `VARIANTS`, and a `row` of name and line. Its methods are written out, so that each has docs of its own.
macro_rules! named {
    ($(#[$attribute:meta])* pub enum $type:ident { $(#[doc = $about:literal] $variant:ident = $name:literal,)* }) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $type { $(#[doc = $about] $variant,)* }

        impl $type {
            const VARIANTS: &[Self] = &[$(Self::$variant,)*];

            fn row(self) -> (&'static str, &'static str) {
                match self { $(Self::$variant => ($name, $about.trim_ascii()),)* }
            }
        }
    };
}
pub(crate) use named;
