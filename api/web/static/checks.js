// Tells of a file, before it is sent, what the service would refuse it for.

// Returns the sides that a file's header tells, without decoding it; null where the browser cannot read it.
function measure(file) {
  return new Promise((resolve) => {
    const picture = new Image();
    const done = (size) => {
      URL.revokeObjectURL(picture.src);
      resolve(size);
    };
    picture.onload = () => done([picture.naturalWidth, picture.naturalHeight]);
    picture.onerror = () => done(null);
    picture.src = URL.createObjectURL(file);
  });
}

// Returns the type of the error that the service would answer with; null: it may take the file.
export async function refusalOf(file, limits) {
  if (!file.size) return "empty_image";
  if (file.size > limits.max_image_bytes) return "image_too_large";
  const size = await measure(file);
  if (!size) return null;
  if (size[0] * size[1] > limits.max_megapixels * 1e6) return "too_many_pixels";
  if (Math.max(...size) > limits.max_side) return "side_too_long";
  return Math.min(...size) < limits.min_side ? "image_too_small" : null;
}
