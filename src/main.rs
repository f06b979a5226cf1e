//! The `walgate` command.

use walgate as _;

fn main() {}
