//! The linear memories of guests.
//!
//! Each is a mapping of its own of exactly the size that its guest begins with; neighbours merge into one,
//! so that a hundred thousand instances do not use up the mappings that a process may have. Wasmtime's
//! own would copy the whole memory each time that it grows by a page. Here a memory that grows gets
//! headroom in proportion, and is moved by the kernel, page tables and not bytes: growing by small steps
//! takes time in proportion to what was grown. Only what a guest has touched takes memory.

use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap_anonymous, mremap, munmap};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

/// Makes memories.
pub(crate) struct Memories;

struct Mapping {
    base: NonNull<u8>,
    /// Bytes that are mapped: whole pages.
    capacity: usize,
    /// Bytes that the guest has.
    len: usize,
    /// More will never be asked for.
    max: usize,
}

#[expect(
    unsafe_code,
    reason = "what wasmtime asks of whoever makes memories; see the comment"
)]
// SAFETY: memories are zeroed, page-aligned, of whole pages, and nobody's but wasmtime's. No guard is
// asked for: `engine::config` has none, hence the code checks every access against the length.
unsafe impl MemoryCreator for Memories {
    fn new_memory(
        &self,
        _: MemoryType,
        minimum: usize,
        maximum: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        if guard > 0 || reserved.is_some_and(|reserved| reserved > 0) {
            return Err("memories have neither guards nor reservations here".to_owned());
        }
        let mapping = Mapping::new(minimum, maximum.unwrap_or(usize::MAX));
        mapping
            .map(|mapping| Box::new(mapping) as Box<dyn LinearMemory>)
            .map_err(|error| format!("map {minimum} bytes: {error}"))
    }
}

#[expect(unsafe_code, reason = "mapping memory is; see the comments")]
impl Mapping {
    fn new(len: usize, max: usize) -> rustix::io::Result<Self> {
        // An empty mapping is none.
        let capacity = whole_pages(len.max(1));
        // SAFETY: a new anonymous mapping, wherever the kernel likes; it overlaps nothing.
        let base = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                capacity,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        Ok(Self {
            base: NonNull::new(base.cast()).expect("the kernel maps nothing at address 0"),
            capacity,
            len,
            max,
        })
    }

    fn grow(&mut self, len: usize) -> rustix::io::Result<()> {
        if len > self.capacity {
            let roomy = len.saturating_add(len / 2).max(HEADROOM_MIN).min(self.max);
            let capacity = whole_pages(roomy.max(len));
            // SAFETY: exactly the mapping that `new` or this made; its former address is not used
            // again. What is added is zeroed, as all anonymous mappings are.
            let base = unsafe {
                mremap(
                    self.base.as_ptr().cast(),
                    self.capacity,
                    capacity,
                    MremapFlags::MAYMOVE,
                )?
            };
            self.base = NonNull::new(base.cast()).expect("the kernel maps nothing at address 0");
            self.capacity = capacity;
        }
        self.len = len;
        Ok(())
    }
}

#[expect(unsafe_code, reason = "unmapping memory is; see the comment")]
impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that this made; wasmtime drops it with the instance.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.capacity) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

#[expect(unsafe_code, reason = "what it points to is its own; see the comment")]
// SAFETY: the mapping is this value's alone, and changes only through `&mut self`.
unsafe impl Send for Mapping {}

#[expect(unsafe_code, reason = "what it points to is its own; see the comment")]
// SAFETY: as above; shared references give the address and nothing of what is there.
unsafe impl Sync for Mapping {}

#[expect(
    unsafe_code,
    reason = "what wasmtime asks of a memory; see the comment"
)]
// SAFETY: `capacity` bytes from `base` are mapped for reading and writing, zeroed where nothing was
// written, and `len` is never more than that. Growing keeps what is there.
unsafe impl LinearMemory for Mapping {
    fn byte_size(&self) -> usize {
        self.len
    }

    fn byte_capacity(&self) -> usize {
        self.capacity
    }

    fn grow_to(&mut self, len: usize) -> wasmtime::Result<()> {
        Ok(self.grow(len).map_err(std::io::Error::from)?)
    }

    fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }
}

fn whole_pages(bytes: usize) -> usize {
    bytes.next_multiple_of(rustix::param::page_size())
}

/// What a memory that grows gets at least.
const HEADROOM_MIN: usize = 1 << 20;
