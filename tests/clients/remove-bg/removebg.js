// The npm client remove.bg, as it is, sent to another address than the one that is written in it.
// node removebg.js ADDRESS FUNCTION OPTIONS-AS-JSON: prints what the promise came to, as JSON.
const unirest = require("unirest");
const post = unirest.post;
const [address, name, options] = process.argv.slice(2);
unirest.post = (url) => post(url.replace("https://api.remove.bg", address));
require("remove.bg")
  [name](JSON.parse(options))
  .then((resolved) => console.log(JSON.stringify({ resolved })))
  .catch((rejected) => console.log(JSON.stringify({ rejected })));
