// Turntables and mixes: every film is a sprite sheet of which one frame shows; without this script they are stills.
// Beside them: buttons that copy commands.
(() => {
  "use strict";
  document.documentElement.classList.add("scripted");
  const STEP_MS = 110;
  const DRAG_TURN = 1.25; // a drag over the plate's width turns by this many times 180 degrees

  const show = (film, frame) => {
    const { frames, columns, rows } = film.dataset;
    const index = ((frame % frames) + Number(frames)) % frames;
    const x = (-100 * (index % columns)) / columns;
    const y = (-100 * Math.floor(index / columns)) / rows;
    film.firstElementChild.style.transform = `translate(${x}%,${y}%)`;
    film.dataset.shown = index;
    return index;
  };

  const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
  const tables = [...document.querySelectorAll(".turntable")].map((figure) => {
    const film = figure.querySelector(".film");
    const readout = figure.querySelector(".readout");
    const total = Number(film.dataset.frames);
    const table = { figure, film, visible: false, held: false };
    table.turnTo = (frame) => {
      const index = show(film, frame);
      const degrees = Math.round((360 * index) / total);
      film.setAttribute("aria-valuenow", degrees);
      film.setAttribute("aria-valuetext", `${degrees} degrees`);
      if (readout) readout.textContent = `azimuth ${degrees}°`;
    };
    table.at = () => Number(film.dataset.shown || 0);
    film.tabIndex = 0;
    film.setAttribute("role", "slider");
    film.setAttribute("aria-label", `Azimuth of ${figure.dataset.label}`);
    film.setAttribute("aria-valuemin", 0);
    film.setAttribute("aria-valuemax", 359);
    table.turnTo(Math.floor(total / 8));

    let start = null;
    film.addEventListener("pointerdown", (event) => {
      start = { x: event.clientX, frame: table.at() };
      table.held = true;
      film.setPointerCapture(event.pointerId);
    });
    film.addEventListener("pointermove", (event) => {
      if (!start) return;
      const turned = ((event.clientX - start.x) / film.clientWidth) * DRAG_TURN * (total / 2);
      table.turnTo(start.frame - Math.round(turned));
    });
    const release = () => { start = null; };
    film.addEventListener("pointerup", release);
    film.addEventListener("pointercancel", release);
    film.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1 }[event.key];
      if (event.key === "Home") table.turnTo(0);
      else if (step) table.turnTo(table.at() + step);
      else return;
      table.held = true;
      event.preventDefault();
    });
    return table;
  });

  // The opening object turns by itself while it is in sight, until it is touched.
  const opening = tables.find((table) => table.figure.classList.contains("opening-turntable"));
  const ring = tables.filter((table) => table !== opening);
  const play = document.querySelector(".play");
  const azimuth = document.querySelector(".azimuth");
  let turningAll = false;

  const turnAll = (frame) => {
    ring.forEach((table) => table.turnTo(frame));
    azimuth.value = frame;
    azimuth.nextElementSibling.textContent = `${Math.round((360 * frame) / (Number(azimuth.max) + 1))}°`;
  };
  const setTurning = (on) => {
    turningAll = on;
    play.textContent = on ? "Stop" : "Turn all";
  };
  if (play) {
    play.addEventListener("click", () => setTurning(!turningAll));
    azimuth.addEventListener("input", () => { setTurning(false); turnAll(Number(azimuth.value)); });
    ring.forEach((table) => table.film.addEventListener("pointerdown", () => setTurning(false)));
  }

  if ("IntersectionObserver" in window) {
    const observer = new IntersectionObserver((entries) => entries.forEach((entry) => {
      const table = tables.find((candidate) => candidate.figure === entry.target);
      table.visible = entry.isIntersecting;
    }));
    tables.forEach((table) => observer.observe(table.figure));
  }
  setInterval(() => {
    if (document.hidden) return;
    if (opening && opening.visible && !opening.held && !calm.matches) opening.turnTo(opening.at() + 1);
    if (turningAll && ring.some((table) => table.visible)) {
      turnAll((Number(azimuth.value) + 1) % (Number(azimuth.max) + 1));
    }
  }, STEP_MS);

  document.querySelectorAll(".blend").forEach((blend) => {
    const slider = blend.querySelector(".mix");
    const films = blend.querySelectorAll(".film");
    const readout = blend.querySelector(".readout");
    const update = () => {
      const frame = Number(slider.value);
      films.forEach((film) => show(film, frame));
      readout.textContent = Math.round((100 * frame) / slider.max);
      slider.setAttribute("aria-valuetext", `${readout.textContent} percent of the way`);
    };
    slider.addEventListener("input", update);
    update();
  });

  // The commands that run one failed object; where the clipboard is refused, the command is selected instead.
  document.querySelectorAll(".copy").forEach((button) => {
    const command = button.previousElementSibling;
    const tell = (text) => {
      button.textContent = text;
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    };
    const select = () => {
      window.getSelection().selectAllChildren(command);
      tell("Selected");
    };
    button.addEventListener("click", () => {
      if (!navigator.clipboard) select();
      else navigator.clipboard.writeText(command.textContent).then(() => tell("Copied"), select);
    });
  });
})();
