package fault

// Codes about images on disk (E_IMAGE_*: what is there is wrong) and the store that holds them (E_STORE_*: something
// else is).
const (
	ImageDamaged   Code = "E_IMAGE_DAMAGED"
	ImageTruncated Code = "E_IMAGE_TRUNCATED"
	ImageMissing   Code = "E_IMAGE_MISSING"
	ImageVersion   Code = "E_IMAGE_VERSION"
	ImageFeature   Code = "E_IMAGE_FEATURE"
	ImageSize      Code = "E_IMAGE_SIZE"
	ImageMap       Code = "E_IMAGE_MAP"
	ImageState     Code = "E_IMAGE_STATE"
	ImageRead      Code = "E_IMAGE_READ"

	StoreNotFound  Code = "E_STORE_NOT_FOUND"
	StoreNoImage   Code = "E_STORE_NO_IMAGE"
	StoreNotStore  Code = "E_STORE_NOT_STORE"
	StoreAmbiguous Code = "E_STORE_AMBIGUOUS"
	StoreName      Code = "E_STORE_NAME"
	StoreOption    Code = "E_STORE_OPTION"
	StoreBusy      Code = "E_STORE_BUSY"
	StoreFull      Code = "E_STORE_FULL"
	StoreRights    Code = "E_STORE_RIGHTS"
	StoreForeign   Code = "E_STORE_FOREIGN"
	StoreIO        Code = "E_STORE_IO"
	StoreRefused   Code = "E_STORE_REFUSED"
	StoreParent    Code = "E_STORE_PARENT"
	StorePinned    Code = "E_STORE_PINNED"
)

var imageCodes = []Entry{
	{
		ImageDamaged, BadImage, "the image is damaged",
		"A checksum does not match, or bytes that must have one value have another: the file changed after it was written.", "restore another image of the store, or a copy of this one",
	},
	{
		ImageTruncated, BadImage, "a file of the image is cut short",
		"A file is shorter, or longer, than its header and the image's own record say.",
		"restore another image of the store, or a copy of this one",
	},
	{
		ImageMissing, BadImage, "a file of the image is missing",
		"The image's directory is there, but not everything that belongs in it, or something the image's page map names.", "restore another image of the store, or a copy of this one",
	},
	{
		ImageVersion, BadImage, "the image has another format version",
		"It was written by another release of bpfckpt, or is not an image at all.",
		"use the release that wrote the image",
	},
	{
		ImageFeature, BadImage, "the image needs a feature this release does not know",
		"A later release wrote something into it that must be understood: a record of the state, or a bit of a file's header.",
		"use the release that wrote the image, or a newer one",
	},
	{
		ImageSize, BadImage, "a size in the image is absurd",
		"A length or a count is beyond what the format allows, so nothing was allocated for it.",
		"restore another image of the store, or a copy of this one",
	},
	{
		ImageMap, BadImage, "the page map contradicts itself",
		"A run of pages is misaligned, overlaps another, or lies outside of the data or the address space it names.",
		"restore another image of the store, or a copy of this one",
	},
	{
		ImageState, BadImage, "the saved state contradicts itself",
		"The state is not what any release writes: an unknown or missing field, or a value that no process can have.",
		"restore another image of the store, or a copy of this one",
	},
	{
		ImageRead, BadImage, "the image cannot be read",
		"The operating system reports an error on reading a file of the image.", "read the cause; check the disk",
	},

	{
		StoreNotFound, Failed, "no such store", "There is nothing by this name, or no image in it.",
		"check the directory; bpfckpt snap PID --dir DIR makes one",
	},
	{
		StoreNoImage, Failed, "no such image in the store", "The store has no image with this name or id.",
		"bpfckpt inspect DIR shows the head; names and ids are those printed by snap",
	},
	{
		StoreNotStore, Failed, "the directory is not a store",
		"It has other things in it and was not made by bpfckpt, or it is no directory at all.",
		"name an empty or new directory",
	},
	{
		StoreAmbiguous, Failed, "more than one image fits",
		"Several ids begin like this, or the store has several images and no head.", "give more digits of the id",
	},
	{StoreName, Failed, "the name is taken", "Names are unique within a store.", "choose another name"},
	{
		StoreOption, Usage, "the store was asked for something that does not exist",
		"A name has characters outside of A-Z a-z 0-9 . _ -, or a compression level is unknown.",
		"read bpfckpt snap --help",
	},
	{
		StoreBusy, Failed, "the store is in use", "Another bpfckpt has held the store's lock for several seconds.",
		"try again, or use another --dir",
	},
	{
		StoreFull, Failed, "no room", "The disk, a quota or a file size limit is exhausted. Nothing of the image stays.",
		"free some space, or use another --dir",
	},
	{
		StoreRights, Failed, "the store cannot be written",
		"The directory is not ours, or the file system is read-only.",
		"use another --dir, or fix its rights",
	},
	{
		StoreForeign, Failed, "others can have put something into the store",
		"The directory, or something in it, belongs to another user, lets others write to it, or is a link where none belongs: whoever put it there would decide what is run, or which file is changed, in our name. Verbs that only look (inspect, verify, log, diff) do without this.",
		"use another --dir; or, if you know what is there and trust it, make it yours (chown) and nobody else's to write to (chmod go-w)",
	},
	{
		StoreIO, Failed, "the store failed",
		"The operating system reports an error on writing. Nothing of the image stays.",
		"read the cause; check the disk",
	},
	{
		StoreRefused, Failed, "what was to be saved is not a state any process can have",
		"The image would have been unreadable, so it was not published.", "report it with the message",
	},
	{
		StoreParent, Failed, "the parent image is of another process",
		"Only an image of the same process, without an execve since, can tell which of its pages are unchanged.",
		"take a full snapshot",
	},
	{
		StorePinned, Failed, "the image is needed at this moment",
		"A snapshot that continues this image, or a squash of it, is being written.", "try again when that is done",
	},
}
