// The box of cliplib.reports.widget.drop_box: it sends one image to the kernel, and shows the answer.

// JupyterLab's server closes the connection of whoever sends more than 10 MiB at once.
const LIMIT_MB = 10;

function render({ model, el }) {
  el.innerHTML = `
    <label style="display: block; padding: 1.5em; text-align: center; border: 2px dashed #8a8f98">
      Drop an image here, or choose one: <input type="file" accept="image/*">
    </label>
    <div role="status"></div>`;
  const input = el.querySelector("input");
  const status = el.querySelector("div");
  let latest = null; // the number of what was dropped last: answers to earlier images come too late

  async function take(files) {
    const number = (latest = Math.random());
    const [file] = files;
    if (files.length !== 1) {
      status.textContent = `${files.length} files came: drop one image.`;
    } else if (file.size > LIMIT_MB * 1e6) {
      const megabytes = (file.size / 1e6).toFixed(1);
      status.textContent =
        `${file.name} has ${megabytes} MB, and the connection takes ${LIMIT_MB}: make it smaller, ` +
        "or give its path to DecisionAid.classify in a cell.";
    } else {
      status.textContent = `Looking at ${file.name} … (a busy kernel ends its other work first)`;
      const content = await file.arrayBuffer();
      if (number === latest) model.send({ number, name: file.name }, undefined, [content]);
    }
  }

  function show({ number, html }) {
    if (number === latest) status.innerHTML = html; // every text in it was escaped by Python
  }

  input.addEventListener("change", async () => {
    await take(input.files);
    input.value = ""; // so that the same file can be chosen again
  });
  el.addEventListener("dragover", (event) => event.preventDefault());
  el.addEventListener("drop", (event) => {
    event.preventDefault();
    take(event.dataTransfer.files);
  });
  model.on("msg:custom", show);
  return () => model.off("msg:custom", show);
}

export default { render };
