// The images of a question: chosen, dropped or pasted.

const input = document.getElementById("images");
const drop = document.getElementById("drop");
const list = document.getElementById("chosen");
let files = [];

export function watchImages(changed) {
  const add = (found) => {
    const images = [...found].filter((file) => file.type.startsWith("image/"));
    if (images.length === 0) return;
    files.push(...images);
    show();
    changed(`${images.map((file) => file.name || "image").join(", ")} added`);
  };
  input.addEventListener("change", () => {
    add(input.files);
    input.value = ""; // they are listed below
  });
  document.addEventListener("paste", (event) => add(event.clipboardData?.files ?? []));
  for (const kind of ["dragenter", "dragover"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    add(event.dataTransfer?.files ?? []);
  });
  const remove = (file) => {
    files = files.filter((other) => other !== file);
    show();
    input.focus();
    changed(`${file.name || "image"} removed`);
  };
  const show = () => list.replaceChildren(...files.map((file) => item(file, remove)));
}

// As a request has them.
export function encodedImages() {
  return Promise.all(files.map(async (file) => ({ data: await base64(file) })));
}

function item(file, remove) {
  const made = document.createElement("li");
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", file.name || "image");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Remove";
  button.setAttribute("aria-label", `Remove ${file.name || "image"}`);
  button.addEventListener("click", () => remove(file));
  made.append(canvas, button);
  // On a canvas: an <img> would need URLs that the page's policy does not allow.
  createImageBitmap(file).then(
    (bitmap) => {
      canvas.width = bitmap.width;
      canvas.height = bitmap.height;
      canvas.getContext("2d").drawImage(bitmap, 0, 0);
      bitmap.close();
    },
    () => canvas.replaceWith(`${file.name || "image"} (cannot be shown)`),
  );
  return made;
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
