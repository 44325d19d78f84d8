//! Types of `tidegate-common` as aya's tables want them.

/// A shared type as a key or value of a kernel table.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Abi<T>(pub(super) T);

// SAFETY: `bytemuck::Pod` promises what aya asks for: any bytes are a value, and there is no padding.
unsafe impl<T: bytemuck::Pod> aya::Pod for Abi<T> {}
