"""Volumes with their place in space: all NIfTI reading and writing, all axis conversion.

Arrays are (X, Y, Z). An affine takes voxel indices to RAS+ millimetres. A transform is a (4, 4) matrix in RAS+
millimetres that takes points of the *fixed* space to points of the *moving* one, the direction in which an image is
resampled (and ITK's, but for the LPS axes, which exist only inside this file).

One long file, because what can be wrong with an image file is told where it is read, and nowhere else.
"""

import gzip
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lesiondelta.errors import GeometryError, ImageError, LesionDeltaError
from lesiondelta.files import atomic, write_text
from lesiondelta.timings import timed

Array = NDArray[Any]
Affine = NDArray[np.float64]

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
GRID_TOLERANCE_MM = 1e-2
MASK_TOLERANCE = 1e-3  # of a header that scales 255 to 0.99999
GZIP = b"\x1f\x8b"
GZIP_RATIO = 1032
"""Bytes that one of gzip's can stand for at most."""
LARGEST_BYTES = 2**32
"""Of an image's voxels as they are stored: 1024 x 1024 x 2048 of 16 bits."""
LARGEST_REST = 2**26
"""Bytes before and after an image's voxels, of comments and padding."""
MGH = b"\0\0\0\1"
ONE_FILE = (".nii", ".nii.gz", ".mgh", ".mgz", ".mgh.gz")
MGH_HEADER_BYTES = 284
MGH_VOXEL_BYTES = {0: 1, 1: 4, 3: 4, 4: 2}
"""By FreeSurfer's code of their type."""
MGH_GEOMETRY = slice(28, 30)
"""Bytes of FreeSurfer's header that are 0 where it holds no geometry; nibabel then makes one up."""
FOREIGN_UNITS = {1: "metres", 3: "micrometres"}
"""NIfTI's codes; 2 is mm, and 0, not said, is taken for mm as everybody does."""
SIZE_TOLERANCE = 0.01
FORMS = (
    "pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z",
)  # fmt: skip
"""The fields of a NIfTI header that hold sform and qform (of `pixdim`, the first four values)."""
Forms = Mapping[str, list[float]]
"""Values of FORMS: what says, to programs that prefer either form, where an image lies."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A lattice of voxels: `shape` (X, Y, Z), `affine` (4, 4), voxel -> RAS+ mm, and the forms of the file it is of."""

    shape: tuple[int, int, int]
    affine: Affine
    forms: Forms | None = None

    @cached_property
    def spacing(self) -> Array:
        """Voxel edge lengths along X, Y, Z in mm."""
        lengths: Array = np.linalg.norm(self.affine[:3, :3], axis=0)
        return lengths

    @cached_property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel, shear included."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def distance_mm(self, other: "Grid") -> float:
        """Largest distance between corresponding corners of two grids of the same shape; infinite for other shapes."""
        if self.shape != other.shape:
            return float("inf")
        return float(np.linalg.norm(corners_mm(self) - corners_mm(other), axis=1).max())


@dataclass(frozen=True, eq=False)
class Volume:
    """An image on its grid: `data` (X, Y, Z), `affine` (4, 4) voxel -> RAS+ mm, and a name for messages.

    `forms` are those of its file; what is written on its grid gets them, so that every program sees both at one place.
    """

    data: Array
    affine: Affine
    name: str = "volume"
    forms: Forms | None = None

    @property
    def grid(self) -> Grid:
        """Shape, affine and forms."""
        x, y, z = self.data.shape
        return Grid((x, y, z), self.affine, self.forms)

    def with_data(self, data: Array) -> "Volume":
        """Other values on the same grid."""
        return replace(self, data=data)


def read_image(path: Path) -> Volume:
    """Read a 3D image as float32.

    Raises
    ------
    ImageError
        Absent, unreadable or damaged, not 3D, with NaN or infinite voxels, or zero everywhere.
    GeometryError
        The header has no affine, a singular one, two that differ in more than the pose, or one not in mm.
    """
    volume = _read(path, np.float32)
    if not np.isfinite(volume.data).all():
        raise ImageError(
            f"{path} has {np.count_nonzero(~np.isfinite(volume.data))} NaN or infinite voxels: repair or re-export it."
        )
    if not volume.data.any():
        raise ImageError(f"{path} is zero everywhere: re-export it.")
    return volume


def read_mask(path: Path) -> Volume:
    """Read a mask as bool; an empty one is fine, values other than 0 and 1 (or 0 and 255) are not (ImageError)."""
    volume = _read(path, np.float32)
    inside = volume.data[volume.data != 0]
    if not any(np.allclose(inside, value, rtol=MASK_TOLERANCE, atol=0) for value in (1, 255)):
        raise ImageError(
            f"{path} is not a mask: it holds {_values(inside)} instead of 0 and 1. Threshold it, or choose one label."
        )
    return volume.with_data(volume.data != 0)


def _values(inside: Array) -> str:
    """What the nonzero voxels of something that is no mask are, in words."""
    bad = np.count_nonzero(~np.isfinite(inside))
    if bad:
        return f"NaN or infinity in {bad} voxels"
    if np.ptp(inside) == 0:
        return f"0 and {inside[0]:g}"
    return "several labels" if np.array_equal(inside, np.rint(inside)) else "probabilities or other fractions"


def read_probabilities(path: Path) -> Volume:
    """Read values from 0 to 1 as float32, all 0 perhaps; ImageError for others."""
    volume = _read(path, np.float32)
    if not ((volume.data >= 0) & (volume.data <= 1)).all():
        raise ImageError(f"{path} holds values that are not probabilities.")
    return volume


def read_labels(path: Path) -> Volume:
    """Read an integer label map as int32."""
    volume = _read(path, np.float32)
    if not np.array_equal(volume.data, np.rint(volume.data)):
        raise ImageError(f"{path} is not a label map: it holds values that are not whole numbers.")
    return volume.with_data(volume.data.astype(np.int32))


def write_volume(path: Path, volume: Volume) -> None:
    """Write NIfTI atomically; bool becomes uint8, float64 becomes float32."""
    data = volume.data
    if data.dtype == np.bool_:
        data = data.astype(np.uint8)
    elif data.dtype == np.float64:
        data = data.astype(np.float32)
    with atomic(path) as temporary:
        nib.save(_nifti(data, volume.affine, volume.forms), temporary)


def write_displacement(path: Path, voxels: Array, grid: Grid) -> None:
    """Write a displacement field (3, X, Y, Z), in voxels along the grid's axes, as ITK and ANTs read it.

    That is NIfTI of (X, Y, Z, 1, 3) with the vector intent, in mm along LPS axes.
    """
    to_lps = RAS_TO_LPS[:3, :3] @ grid.affine[:3, :3]
    field = np.einsum("ij,jxyz->xyzi", to_lps, voxels)[:, :, :, None].astype(np.float32)
    image = _nifti(field, grid.affine)
    image.header.set_intent("vector")
    with atomic(path) as temporary:
        nib.save(image, temporary)


def require_same_grid(a: Volume, b: Volume, tolerance_mm: float = GRID_TOLERANCE_MM) -> None:
    """Raise GeometryError unless the two lie on one grid, corner by corner, by either form of either header."""
    if a.data.shape != b.data.shape:
        raise GeometryError(
            f"{a.name} has shape {a.data.shape}, {b.name} has {b.data.shape}: resample one to the other first."
        )
    if min(one.distance_mm(other) for one in _poses(a.grid) for other in _poses(b.grid)) <= tolerance_mm:
        return
    orientations = ["".join(nib.aff2axcodes(volume.affine)) for volume in (a, b)]
    if orientations[0] != orientations[1]:
        raise GeometryError(
            f"{a.name} is stored as {orientations[0]}, {b.name} as {orientations[1]}: resample one to the other first."
        )
    shift_mm = a.grid.distance_mm(b.grid)
    raise GeometryError(f"{a.name} and {b.name} lie {shift_mm:.2f} mm apart: resample one to the other first.")


def _poses(grid: Grid) -> list[Grid]:
    """The grid, and where its qform puts it, which SimpleITK reads and which tools that move the sform leave."""
    if not grid.forms:
        return [grid]
    header = nib.Nifti1Header()
    header.set_data_shape(grid.shape)
    _set_forms(header, grid.forms)
    if not grid.forms["qform_code"][0]:
        return [grid]
    return [grid, replace(grid, affine=header.get_qform())]


@timed("resampling")
def resample(
    volume: Volume,
    grid: Grid,
    transform: Affine | None = None,
    order: Literal["nearest", "linear", "bspline"] = "bspline",
) -> Volume:
    """Resample `volume` onto `grid` through `transform` (points of the grid's space -> points of the volume's).

    Works on voxel indices, so that flips, obliquity, anisotropy and shear need no special case. A cubic B-spline is
    clamped to the input's range; a linear result is float32. Outside the field of view, which ends with the outer faces
    of the voxels, the value is 0.
    """
    pull = np.linalg.inv(volume.affine) @ (np.eye(4) if transform is None else transform) @ grid.affine
    boolean = volume.data.dtype == np.bool_
    if order == "nearest":
        source = volume.data.astype(np.uint8) if boolean else volume.data
        data = _splined(source, pull, grid.shape, 0, "grid-constant")
        return Volume(data.astype(bool) if boolean else data, grid.affine, volume.name, grid.forms)
    if order == "linear":
        return Volume(_linear(volume.data, pull, grid.shape), grid.affine, volume.name, grid.forms)
    source = volume.data.astype(np.float32) if boolean else volume.data
    data = _splined(source, pull, grid.shape, 3, "nearest")
    np.clip(data, source.min(), source.max(), out=data)
    data *= _splined(np.ones(source.shape, np.uint8), pull, grid.shape, 0, "grid-constant")
    return Volume(data, grid.affine, volume.name, grid.forms)


def _splined(source: Array, pull: Affine, shape: tuple[int, ...], order: int, mode: str) -> Array:
    """A spline at voxel indices; "grid-constant": 0 outside, where a voxel reaches half its edge beyond its centre."""
    data: Array = ndimage.affine_transform(
        source, pull[:3, :3], pull[:3, 3], output_shape=shape, order=order, mode=mode
    )
    return data


def _linear(source: Array, pull: Affine, shape: tuple[int, ...]) -> Array:
    """ITK's linear interpolation at voxel indices, float32, 0 outside: scipy's values in a third of its time."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(source.T, dtype=np.float32))
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(pull[:3, :3].ravel().tolist())
    transform.SetTranslation(pull[:3, 3].tolist())
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([int(n) for n in shape])
    resampler.SetTransform(transform)
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetOutputPixelType(sitk.sitkFloat32)
    resampler.SetOutputOrigin([0.0, 0.0, 0.0])
    resampler.SetOutputSpacing([1.0, 1.0, 1.0])
    resampler.SetOutputDirection(np.eye(3).ravel().tolist())
    resampler.SetNumberOfThreads(1)  # visits and patients run side by side
    return np.array(sitk.GetArrayFromImage(resampler.Execute(image)).T, order="C")


def isotropic_grid(points_mm: Array, spacing_mm: float, margin_mm: float = 0.0) -> Grid:
    """The RAS-aligned grid of cubic voxels that covers points (N, 3) in RAS+ mm, `margin_mm` wider on every side."""
    low = np.floor((points_mm.min(axis=0) - margin_mm) / spacing_mm) * spacing_mm
    high = np.ceil((points_mm.max(axis=0) + margin_mm) / spacing_mm) * spacing_mm
    x, y, z = (np.rint((high - low) / spacing_mm).astype(int) + 1).tolist()
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = low
    return Grid((x, y, z), affine)


def to_sitk(volume: Volume) -> Any:  # noqa: ANN401  (SimpleITK has no types)
    """Convert to a SimpleITK image in LPS.

    Raises
    ------
    GeometryError
        The axes are sheared, which ITK's images cannot hold.
    """
    import SimpleITK as sitk

    spacing, direction, origin = lps_geometry(volume)
    image = sitk.GetImageFromArray(np.ascontiguousarray(storable(volume.data).T))
    image.SetSpacing(spacing.tolist())
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin(origin.tolist())
    return image


def write_itk_transform(path: Path, transform: Affine) -> None:
    """Write an ITK text file, which ITK-SNAP, ANTs and Slicer read; the direction stays fixed -> moving."""
    lps = RAS_TO_LPS @ transform @ RAS_TO_LPS
    numbers = " ".join(f"{value:.17g}" for value in [*lps[:3, :3].ravel(), *lps[:3, 3]])
    write_text(
        path,
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        f"Parameters: {numbers}\nFixedParameters: 0 0 0\n",
    )


def read_itk_transform(path: Path) -> Affine:
    """Read an affine ITK text transform as a (4, 4) matrix in RAS+ mm."""
    fields = dict(line.split(":", 1) for line in path.read_text(encoding="utf-8").splitlines() if ":" in line)
    parameters = np.array(fields["Parameters"].split(), dtype=np.float64)
    center = np.array(fields["FixedParameters"].split(), dtype=np.float64)
    lps = np.eye(4)
    lps[:3, :3] = parameters[:9].reshape(3, 3)
    lps[:3, 3] = parameters[9:12] + center - lps[:3, :3] @ center
    return RAS_TO_LPS @ lps @ RAS_TO_LPS


class _Unpacked(gzip.GzipFile):
    """What gzip packed, as far as an image of `largest` bytes may go on: some files would unpack for days."""

    def __init__(self, file: BinaryIO, path: Path, largest: int = LARGEST_BYTES + LARGEST_REST) -> None:
        super().__init__(fileobj=file)
        self.path, self.largest = path, largest

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes; ImageError beyond the largest."""
        left = self.largest + 1 - self.tell()
        found = super().read(left if size is None or size < 0 else min(size, left))
        if self.tell() > self.largest:
            raise _goes_on(self.path, self.largest)
        return found


def _goes_on(path: Path, largest: int) -> ImageError:
    return ImageError(
        f"{path} goes on after {_size(largest)}, where its image ends by its header: it is damaged or was made to fill "
        "the memory; export it again."
    )


def _size(count: int) -> str:
    """Bytes in words."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count:,} bytes"


def require_whole(path: Path) -> None:
    """Unpack a file to its end, where the checksum is; ImageError where it is damaged."""
    try:
        with path.open("rb") as file:
            if _is_packed(file):
                _to_the_end(_Unpacked(file, path))
    except (OSError, EOFError, zlib.error) as error:
        raise ImageError(f"{path} cannot be unpacked ({error}): it is damaged; copy or export it again.") from error


def _is_packed(file: BinaryIO) -> bool:
    """Whether gzip wrote the file; names are not always right."""
    start = file.read(len(GZIP))
    file.seek(0)
    return start == GZIP


def _to_the_end(stream: BinaryIO | gzip.GzipFile) -> None:
    while stream.read(1 << 20):
        pass


def _require_grey(image: Any, path: Path) -> None:  # noqa: ANN401
    """Raise ImageError for colours and complex numbers: reading these as floats would keep only the real part."""
    kind = image.get_data_dtype()
    if kind.fields or kind.kind == "c":
        what = "colours" if kind.fields else "complex numbers"
        raise ImageError(f"{path} holds {what}: give the grey image of magnitudes that it was made from.")


def _load(path: Path, dtype: type) -> tuple[Any, Array]:
    """The image and its voxels; what is packed is read to its end, where the checksum is: nibabel stops before it."""
    with path.open("rb") as file:
        packed = _Unpacked(file, path) if _is_packed(file) else None
        stream: Any = packed or file
        start = stream.read(nib.Nifti2Image.header_class.sizeof_hdr)
        stream.seek(0)
        if kind := _kind(path, start):
            largest = _end_of_voxels(kind, start, path, packed is not None) + LARGEST_REST
            if packed:
                packed.largest = largest
            elif path.stat().st_size > largest:
                raise _goes_on(path, largest)
            image = kind.from_stream(stream)
            _require_grey(image, path)
            _require_voxels_after_header(image, path)
            data: Array = np.asarray(image.dataobj, dtype=dtype)
            _to_the_end(stream)
            return image, data
    require_whole(path)
    image = nib.load(path)
    _require_grey(image, path)
    pair = (Path(file.filename) for file in image.file_map.values())
    for part in filter(Path.is_file, pair):
        require_whole(part)
    _require_held(image.header.get_data_shape(), image.get_data_dtype().itemsize, LARGEST_BYTES, path)
    return image, np.asarray(image.dataobj, dtype=dtype)


def _end_of_voxels(kind: Any, start: bytes, path: Path, packed: bool) -> int:  # noqa: ANN401
    """Where the voxels end by the header that a file starts with; ImageError where the file cannot hold as much."""
    if kind is nib.MGHImage:
        *shape, code = np.frombuffer(start[4:24], ">i4").tolist()
        offset, voxel = MGH_HEADER_BYTES, MGH_VOXEL_BYTES.get(code, 1)
    else:
        header = kind.header_class(start[: kind.header_class.sizeof_hdr], check=False)
        shape, voxel = header.get_data_shape(), header.get_data_dtype().itemsize
        offset = int(header["vox_offset"])
    if offset > LARGEST_REST:
        raise ImageError(
            f"{path} says that its voxels begin at byte {offset} (vox_offset), far after its header: export it again."
        )
    held = path.stat().st_size * (GZIP_RATIO if packed else 1)
    return max(offset, 0) + _require_held(shape, voxel, held, path)


def _require_held(shape: Sequence[int], voxel_bytes: int, held: int, path: Path) -> int:
    """The bytes of as many voxels; ImageError where there are none, more than `held`, or more than any image has."""
    size = math.prod(shape) * voxel_bytes
    said = f"says that it has {' x '.join(map(str, shape))} voxels"
    if min(shape, default=0) < 1:
        raise ImageError(f"{path} cannot be read (its header {said}): it is damaged; copy or export it again.")
    if size > held:
        raise ImageError(
            f"{path} cannot be read (its header {said}, {_size(size)}, and it cannot hold as many): it is damaged or "
            "cut off; copy or export it again."
        )
    if size > LARGEST_BYTES:
        raise ImageError(f"{path} {said}, {_size(size)}: give an image of {_size(LARGEST_BYTES)} or less.")
    return size


def _kind(path: Path, start: bytes) -> Any:  # noqa: ANN401
    """The class of an image in one file, by its content where nibabel would go by the name; None for the others."""
    _require_an_image(start, path)
    if not path.name.lower().endswith(ONE_FILE):
        return None
    if start.startswith(MGH):
        if start[MGH_GEOMETRY] == bytes(2):
            raise GeometryError(
                f"{path} says nothing of its orientation (goodRASFlag is 0): export it again with its affine."
            )
        return nib.MGHImage
    kinds = (nib.Nifti1Image, nib.Nifti2Image)
    return next((kind for kind in kinds if kind.header_class.may_contain_header(start)), None)


def _require_an_image(start: bytes, path: Path) -> None:
    """Raise ImageError for what often lies in an image's place, and says so in its first bytes."""
    text = start.lstrip().lower()
    if not start:
        raise ImageError(f"{path} is empty: copy or export it again.")
    if text.startswith((b"<html", b"<!doctype", b"<?xml")):
        raise ImageError(f"{path} is a web page, perhaps an error message in place of the image: download it again.")
    if text.startswith(b"version https://git-lfs"):
        raise ImageError(f"{path} only says where git-lfs keeps the image: fetch it with `git lfs pull`.")
    if b"annex/objects/" in text[:200]:
        raise ImageError(f"{path} only says where git-annex keeps the image: fetch it with `datalad get`.")
    if start[128:132] == b"DICM":
        raise ImageError(f"{path} is a DICOM file: unpack it if it is packed, and give the folder of its series.")
    if text.startswith(GZIP):
        raise ImageError(f"{path} is packed twice: unpack it once.")


def _require_voxels_after_header(image: Any, path: Path) -> None:  # noqa: ANN401
    """Raise ImageError where the voxels would begin within the header, which would be read as voxels."""
    if isinstance(image, nib.Nifti1Image) and image.dataobj.offset < image.header.single_vox_offset:
        raise ImageError(
            f"{path} says that its voxels begin at byte {image.dataobj.offset} (vox_offset), which is within its "
            "header: export it again."
        )


def _read(path: Path, dtype: type) -> Volume:
    _require_readable(path)
    try:
        image, data = _load(path, dtype)
    except LesionDeltaError:
        raise
    except MemoryError as error:
        raise ImageError(
            f"{path} does not fit into memory: run fewer patients at a time (--nprocs), or see whether the dimensions "
            "in its header are right."
        ) from error
    except Exception as error:  # nibabel raises a dozen kinds for damaged files
        said = " ".join(str(error).split())
        raise ImageError(
            f"{path} cannot be read ({said}): it is damaged or not NIfTI; copy or export it again."
        ) from error
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim != 3:
        raise ImageError(f"{path} has {data.ndim} dimensions {data.shape}: give one 3D volume.")
    return Volume(data, _affine(image, path), str(path), _forms(image.header))


def _require_readable(path: Path) -> None:
    """Open the file once: nibabel hides why it cannot."""
    try:
        if not path.is_file():
            raise ImageError(_why_absent(path))
        path.open("rb").close()
    except OSError as error:
        raise ImageError(f"{path} cannot be opened ({error.strerror}): see to its permissions and its disk.") from error


def _why_absent(path: Path) -> str:
    if path.is_dir():
        return f"{path} is a folder, not an image."
    if path.exists():
        return f"{path} is a pipe or a device, not a file: give the image itself."
    if not path.is_symlink():
        return f"{path} does not exist."
    target = path.readlink()
    if "annex" in target.parts:
        return f"{path} is a link of git-annex whose image is not here: fetch it with `datalad get`."
    return f"{path} is a link to {target}, which does not exist."


def _affine(image: Any, path: Path) -> Affine:  # noqa: ANN401
    header = image.header
    if isinstance(header, nib.AnalyzeHeader):
        _require_orientation_in_mm(header, path)
    affine = np.asarray(image.affine, dtype=np.float64)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or lengths.min() < 1e-6 or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
        raise GeometryError(f"{path} has a singular affine: export it again.")
    if isinstance(header, nib.Nifti1Header) and header["sform_code"] > 0 and header["qform_code"] > 0:
        _require_forms_agree(header, path)
    return affine


def _require_orientation_in_mm(header: Any, path: Path) -> None:  # noqa: ANN401
    if not isinstance(header, nib.Nifti1Header):
        raise GeometryError(f"{path} is an Analyze image, which does not say how it is oriented: convert it to NIfTI.")
    if not (header["sform_code"] or header["qform_code"]):
        raise GeometryError(
            f"{path} says nothing of its orientation (sform and qform codes are 0): export it again with its affine."
        )
    if unit := FOREIGN_UNITS.get(int(header["xyzt_units"]) % 8):
        raise GeometryError(f"{path} is in {unit} (its xyzt_units): export it again in mm.")


def _require_forms_agree(header: Any, path: Path) -> None:  # noqa: ANN401
    """The sform may lie elsewhere than the qform, as in a standard space, but hold no other voxels nor mirror them."""
    sform, pixdim = header.get_sform()[:3, :3], header["pixdim"]
    sizes = np.linalg.norm(sform, axis=0), pixdim[1:4]
    if np.abs(sizes[0] / sizes[1] - 1).max() > SIZE_TOLERANCE:
        by_sform, by_qform = (" x ".join(f"{size:.3g}" for size in each) for each in sizes)
        raise GeometryError(
            f"{path} has voxels of {by_sform} mm by its sform, of {by_qform} mm by its qform: export it again."
        )
    if np.linalg.det(sform) * pixdim[0] < 0:
        raise GeometryError(
            f"{path} has a sform that mirrors its qform, and nobody knows which side is left: export it again."
        )


def _nifti(data: Array, affine: Affine, forms: Forms | None = None) -> Any:  # noqa: ANN401  (nibabel has no types)
    image = nib.Nifti1Image(data, affine)
    image.set_qform(affine, code="scanner")
    image.set_sform(affine, code="scanner")
    if forms:
        _set_forms(image.header, forms)
    image.header.set_xyzt_units("mm")
    return image


def _forms(header: Any) -> Forms | None:  # noqa: ANN401
    if not isinstance(header, nib.Nifti1Header):
        return None
    fields = {name: np.nan_to_num(np.atleast_1d(header[name]).astype(float)).tolist() for name in FORMS}
    try:
        header.get_qform()
    except ValueError:  # no rotation: not to be handed on
        fields["qform_code"] = [0.0]
    return {**fields, "pixdim": fields["pixdim"][:4]}


def _set_forms(header: Any, forms: Forms) -> None:  # noqa: ANN401
    for name, values in forms.items():
        if name == "pixdim":
            header["pixdim"][:4] = values
        else:
            header[name] = values if len(values) > 1 else values[0]


def corners_mm(grid: Grid) -> Array:
    """Centres of the eight corner voxels, (8, 3) in RAS+ mm."""
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in grid.shape], indexing="ij")).reshape(3, -1).T
    corners: Array = ends @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return corners


def lps_geometry(volume: Volume) -> tuple[Array, Array, Array]:
    """Spacing (3,), directions (3, 3) and origin (3,) as ITK has them; GeometryError for sheared axes."""
    lps = RAS_TO_LPS @ volume.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    direction = lps[:3, :3] / spacing
    if np.abs(direction.T @ direction - np.eye(3)).max() > 1e-3:
        raise GeometryError(f"{volume.name} has sheared axes: resample it to a rectangular grid first.")
    u, _, v = np.linalg.svd(direction)
    return spacing, u @ v, lps[:3, 3]


def storable(data: Array) -> Array:
    """In a type that ITK's images have here: uint8 of masks, or float32."""
    return data.astype(np.uint8 if data.dtype == np.bool_ else np.float32)
