//! How memory is asked of the C library, and given back. See docs/adr/0007.
//!
//! At its start an agent reads a whole cluster, and each object passes through several threads on its way to the few bytes that are
//! kept of it. By default glibc gives each thread an arena of its own, so that the holes left by what was passed on are spread over
//! all of them, and never filled again.

#![allow(unsafe_code)]

/// Lets all threads share one arena. Before any other thread exists.
#[cfg(target_env = "gnu")]
pub(crate) fn share_one_arena() {
    // SAFETY: mallopt(3) takes two numbers and may be called at any time; one that it does not know it refuses.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives back what is free, for once that much was read that much is.
#[cfg(target_env = "gnu")]
pub(crate) fn give_back() {
    // SAFETY: malloc_trim(3) is safe in threads and touches nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other C libraries are left as they are.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn share_one_arena() {}

/// Other C libraries are left as they are.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn give_back() {}
