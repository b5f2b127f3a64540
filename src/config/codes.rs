//! The stable codes of config mistakes.

macro_rules! codes {
    ($($(#[doc = $about:literal])+ $variant:ident = $name:literal;)*) => {
        /// What kind of mistake it is. The names are stable: scripts may match them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[doc = $about])+ $variant,)*
        }

        impl Code {
            /// Every code, in the order of the documentation.
            pub const ALL: &[Code] = &[$(Code::$variant),*];

            /// The stable name.
            pub fn name(self) -> &'static str {
                match self { $(Code::$variant => $name,)* }
            }

            /// What it means, for the documentation.
            pub fn about(self) -> &'static str {
                match self { $(Code::$variant => concat!($($about),+),)* }
            }
        }
    };
}

codes! {
    /// The file can't be read, is larger than 1 MiB, or isn't UTF-8.
    Unreadable = "config::unreadable";
    /// The text is not YAML. Nothing behind this place was looked at.
    Syntax = "config::syntax";
    /// Too many nodes, too deep, or anchors that multiply: the budget of the YAML reader is used up.
    Budget = "config::budget";
    /// A key stands twice in one mapping.
    DuplicateKey = "config::duplicate_key";
    /// No field of this name here.
    UnknownField = "config::unknown_field";
    /// A required field is missing.
    MissingField = "config::missing_field";
    /// A list, a mapping or a single value where another of them belongs, or nothing at all.
    WrongType = "config::wrong_type";
    /// The field doesn't know this value.
    UnknownValue = "config::unknown_value";
    /// `yes`, `no`, `on`, `off`, `true` or `null` without quotes where a text belongs.
    AmbiguousText = "config::ambiguous_text";
    /// `{id}` without quotes: YAML reads it as a mapping.
    UnquotedTemplate = "config::unquoted_template";
    /// A key template that can't be parsed.
    BadTemplate = "config::bad_template";
    /// An environment variable that `${…}` names isn't set.
    MissingVariable = "config::missing_variable";
    /// `${` without a name or without its `}`.
    BadVariable = "config::bad_variable";
    /// `version` is not one that this build reads.
    BadVersion = "config::bad_version";
    /// Not a URL of the expected form.
    BadUrl = "config::bad_url";
    /// A password inside a URL, where logs and process lists would show it.
    PasswordInUrl = "config::password_in_url";
    /// Not a `host:port`, or not an `address:port`.
    BadAddress = "config::bad_address";
    /// Not a duration, or outside of its bounds.
    BadDuration = "config::bad_duration";
    /// Not a size, or outside of its bounds.
    BadSize = "config::bad_size";
    /// Not a whole number, or outside of its bounds.
    BadNumber = "config::bad_number";
    /// Not a GTID set of MySQL nor a GTID position of MariaDB.
    BadGtid = "config::bad_gtid";
    /// A name that is empty or has characters that can't stand there.
    BadName = "config::bad_name";
    /// Not `schema.table`, or a glob that can't be parsed.
    BadTable = "config::bad_table";
    /// `to` names no target of `redis`.
    UnknownTarget = "config::unknown_target";
    /// Two fields that exclude each other, or a field that has no effect beside another.
    Conflict = "config::conflict";
    /// A librdkafka property that rowbust sets itself, because its guarantees rest on it.
    ReservedProperty = "config::reserved_property";
    /// librdkafka doesn't know the property, or not this value of it.
    BadProperty = "config::bad_property";
    /// Needs a cargo feature that this binary was built without.
    NotInThisBuild = "config::not_in_this_build";
}
